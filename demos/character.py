"""An invented character for the demos: a bio with facts to check, and a long conversation.

Everything here was written for this project. The conversation is put together by templates and a
seeded generator, so it is the same on every machine; no sentence frame is used with the same words
twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from templora_memory import Message

NAME = "Orla Fernwick"
BIO = Path(__file__).with_name("orla_fernwick.txt")


@dataclass(frozen=True, slots=True)
class Fact:
    """One checkable fact: how to ask for it, the short answer, and how she says it."""

    question: str
    answer: str
    sentence: str


FACTS = (
    Fact("Where do you live?", "Heron Cove", "I live in Heron Cove."),
    Fact("What is your work?", "a lamp keeper", "I work as a lamp keeper."),
    Fact("How old are you?", "47", "I am 47 years old."),
    Fact(
        "What pet do you have?", "a lame goose called Button", "I have a lame goose called Button."
    ),
    Fact("Who is your best friend?", "Tamsin", "My best friend is Tamsin."),
    Fact("Who is your rival?", "Jory", "My rival is Jory."),
    Fact("What are you afraid of?", "thunder", "I am afraid of thunder."),
    Fact("What is your favourite food?", "barley soup", "My favourite food is barley soup."),
    Fact("What is your favourite colour?", "green", "My favourite colour is green."),
    Fact("What do you always carry?", "a brass whistle", "I always carry a brass whistle."),
    Fact("Who was your teacher?", "Wenna", "My teacher was Wenna."),
    Fact("What is your hobby?", "carving spoons", "My hobby is carving spoons."),
    Fact("When do you go to market?", "on Thursday", "I go to market on Thursday."),
    Fact("What is your plan?", "to sail to Glass Island", "My plan is to sail to Glass Island."),
    Fact(
        "What is your secret?",
        "a silver spoon under the third stair",
        "I have hidden a silver spoon under the third stair.",
    ),
)
QUESTIONS = tuple(FACTS[index] for index in (0, 1, 3, 4, 6, 7, 11))
"""The questions that the demo asks before and after."""

_MONTHS = ("March", "April", "May", "June", "July", "August", "September", "October")
_SKIES = (
    "grey and still",
    "bright and cold",
    "full of gulls",
    "white with fog",
    "red at sunrise",
    "dark with rain",
    "clear after the wind",
    "pale as milk",
)
_SHIPS = (
    "the Patient Anne",
    "the Two Sisters",
    "the Grey Mare",
    "the Halfpenny",
    "the Morning Bell",
    "the Long Promise",
    "the Saint Ivo",
    "the Blue Kettle",
    "the Old Bargain",
    "the Quick Martha",
)
_CARGO = (
    "barrels of salt",
    "sacks of barley",
    "roof tiles",
    "a church bell",
    "forty sheep",
    "lamp oil",
    "window glass",
    "wool for the weavers",
    "apples in straw",
    "new rope",
)
_GUESTS = (
    "a fiddler with a wet hat",
    "two boys who wanted to see the lamp",
    "a woman who sold needles",
    "the doctor on his way home",
    "a priest with a sick donkey",
    "a painter who asked for blue",
    "an old sailor with one boot",
    "a girl who had lost a kite",
    "the new teacher and her mother",
    "a man who counted birds",
)
_REPAIRS = (
    "the hinge of the gate",
    "the third pane of the lantern",
    "a crack in the water butt",
    "the rope of the small boat",
    "the chimney",
    "the handle of the oil can",
    "the step by the door",
    "the net over the peas",
    "the clock in the hall",
    "the leg of the table",
)
_GOOSE = (
    "stole a glove from the line",
    "slept in the flour box",
    "chased the postman to the bridge",
    "followed me up all ninety steps",
    "found a coin in the mud",
    "bit the fiddler",
    "sat on the log book",
    "hid from the rain under my coat",
    "ate the last of the peas",
    "swam out to a boat and came back",
)
_TAMSIN = (
    "brought a basket of plums",
    "read me a letter from her brother",
    "helped me with the washing",
    "beat me at cards",
    "told me a story about a drowned bell",
    "mended my blue shirt",
    "asked me for a spoon for her baby",
    "sang until the lamp was lit",
    "lent me her good saw",
    "laughed at my new hat",
)
_JORY = (
    "said that his lamp is brighter than mine",
    "sold the needles for twice the price",
    "would not lend me his ladder",
    "told everybody that my soup is thin",
    "put his boat in my place",
    "wanted to buy the goose for his oven",
    "forgot to greet me again",
    "took the best stall at the market",
    "painted his door green because mine is",
    "asked the mayor for my post",
)
_SPOONS = (
    "cherry wood",
    "a piece of driftwood",
    "the old plum tree",
    "pear wood",
    "a broken oar",
    "birch",
    "the leg of a chair",
    "boxwood",
    "an apple branch",
    "hazel",
)
_DAYS = (
    ("How was the weather on {day}?", "The sky was {sky} on {day}."),
    ("Which ship passed on {day}?", "On {day} {ship} passed with {cargo}."),
    ("Did anybody visit you on {day}?", "Yes, on {day} I had a visit from {guest}."),
    ("What did you do on {day}?", "I mended {repair} on {day}, and then I lit the lamp."),
    ("What did Button do on {day}?", "Button {goose} on {day}. What a goose."),
    ("Did you see Tamsin on {day}?", "Yes, she came on {day} and {tamsin}."),
    ("What did Jory do on {day}?", "Jory {jory} on {day}. I did not answer him."),
    ("What did you carve on {day}?", "On {day} I carved a spoon from {spoon}."),
)
_FILLINGS = {
    "sky": _SKIES,
    "ship": _SHIPS,
    "cargo": _CARGO,
    "guest": _GUESTS,
    "repair": _REPAIRS,
    "goose": _GOOSE,
    "tamsin": _TAMSIN,
    "jory": _JORY,
    "spoon": _SPOONS,
}
_FACT_EVERY = 3


def bio() -> str:
    """Return the text that the character is trained on."""
    return BIO.read_text(encoding="utf-8")


def conversation(turns: int = 150, *, seed: int = 7) -> list[Message]:
    """Questions and answers about her days; every third question is about one of the facts."""
    rng = Random(seed)  # noqa: S311  # the same on every machine, not secret
    days, facts = _days(rng), _facts(rng)
    messages: list[Message] = []
    for number in range(turns):
        question, answer = next(facts) if number % _FACT_EVERY == 0 else next(days)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _days(rng: Random) -> Iterator[tuple[str, str]]:
    decks: dict[str, list[str]] = {}
    dates = [f"{number} {month}" for month in _MONTHS for number in range(1, 29)]
    for day, frame in zip(dates, _cycle(rng), strict=False):
        filled = {name: _draw(rng, decks, name) for name in _FILLINGS if f"{{{name}}}" in frame[1]}
        yield frame[0].format(day=day), frame[1].format(day=day, **filled)


def _cycle(rng: Random) -> Iterator[tuple[str, str]]:
    while True:
        yield from rng.sample(_DAYS, len(_DAYS))


def _draw(rng: Random, decks: dict[str, list[str]], name: str) -> str:
    """The next card of a shuffled deck; no card comes again before all were seen."""
    deck = decks.setdefault(name, [])
    if not deck:
        deck += rng.sample(_FILLINGS[name], len(_FILLINGS[name]))
    return deck.pop()


def _facts(rng: Random) -> Iterator[tuple[str, str]]:
    while True:
        for fact in rng.sample(FACTS, len(FACTS)):
            yield fact.question, fact.sentence
