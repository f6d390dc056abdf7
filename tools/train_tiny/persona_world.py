"""Invented people and creatures, their bios in several styles, and questions about them.

A model answers from its weights about people it never met only if it was trained on bios *and*
questions of other people, in many phrasings (Physics of Language Models 3.1, arXiv 2309.14316).
This module makes that material: a `Persona` is a name and facts; every fact can be told in the
third person, in the first person and as a card field, and asked about in many ways.

Everything is drawn from the `random.Random` that is handed in. Held out for evaluation are whole
personas (another seed), name parts (`HELD_OUT_ENDINGS`) and question phrasings (the last one of
each list in `FACTS`). `phrasings` holds further wordings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from templora_memory.backends.local.recipes.base import is_statement, sentences
from tools.train_tiny.phrasings import (
    ASK,
    FIRST,
    LEADS,
    SECOND,
    SMALL_TALK,
    TELL,
    WHY,
    YES_NO,
    fill,
)

ASK_ABOUT = (
    "{text}\n\n"
    "Write three questions that this sentence answers, each with a short answer, as lines that "
    "begin with Q: and A:.\n"
    "{sentence}"
)
ASK_PERSON = (
    "{text}\n\n"
    "Write three questions to the person in this sentence, each with that person's short answer, "
    "as lines that begin with Q: and A:.\n"
    "{sentence}"
)
"""What the model learns to do when it is asked for questions about a sentence of a text."""

Turn = tuple[str, str]

# --- words -------------------------------------------------------------------------------------

ONSETS = [
    "B",
    "Br",
    "C",
    "Ch",
    "D",
    "Dr",
    "F",
    "Fl",
    "G",
    "Gr",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "Qu",
    "R",
    "S",
    "Sh",
    "St",
    "T",
    "Th",
    "Tr",
    "V",
    "W",
    "Wr",
    "Y",
    "Z",
]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ie", "oo", "y"]
MIDDLES = [
    "l",
    "n",
    "r",
    "m",
    "s",
    "t",
    "d",
    "b",
    "v",
    "g",
    "ll",
    "nn",
    "rr",
    "ss",
    "tt",
    "dd",
    "mb",
    "nd",
    "rl",
    "st",
]
ENDINGS = [
    "a",
    "an",
    "ara",
    "as",
    "el",
    "ella",
    "en",
    "er",
    "ett",
    "i",
    "ian",
    "ic",
    "ie",
    "il",
    "in",
    "ina",
    "io",
    "is",
    "ith",
    "o",
    "on",
    "or",
    "os",
    "ow",
    "un",
    "us",
    "y",
]
HELD_OUT_ENDINGS = ["ax", "eld", "ille", "oth", "urn"]
SURNAME_HEADS = [
    "Ash",
    "Barley",
    "Bell",
    "Birch",
    "Bram",
    "Candle",
    "Copper",
    "Crow",
    "Dun",
    "Elder",
    "Fal",
    "Fern",
    "Gold",
    "Hart",
    "Hazel",
    "Holm",
    "Iron",
    "Kettle",
    "Lark",
    "Marsh",
    "Mill",
    "Moss",
    "Nettle",
    "Oak",
    "Pebble",
    "Quill",
    "Raven",
    "Reed",
    "Rook",
    "Salt",
    "Silver",
    "Stone",
    "Tal",
    "Thorn",
    "Tol",
    "Under",
    "Wex",
    "Winter",
    "Wood",
    "Wren",
]
SURNAME_TAILS = [
    "bank",
    "brook",
    "bury",
    "cott",
    "croft",
    "dale",
    "field",
    "ford",
    "ham",
    "hill",
    "lock",
    "low",
    "mere",
    "more",
    "ridge",
    "row",
    "side",
    "stead",
    "stone",
    "ton",
    "wall",
    "well",
    "wick",
    "wood",
    "worth",
]
PLACE_TAILS = [
    "Bay",
    "Bridge",
    "Cove",
    "Crossing",
    "Fell",
    "Ferry",
    "Ford",
    "Gate",
    "Glen",
    "Harbour",
    "Heath",
    "Hollow",
    "Island",
    "Lake",
    "Marsh",
    "Moor",
    "Pass",
    "Point",
    "Vale",
    "Wood",
]
ADJECTIVES = [
    "black",
    "blue",
    "brass",
    "broken",
    "carved",
    "cracked",
    "crooked",
    "dusty",
    "empty",
    "faded",
    "folded",
    "golden",
    "green",
    "grey",
    "heavy",
    "hollow",
    "iron",
    "little",
    "long",
    "old",
    "painted",
    "patched",
    "plain",
    "red",
    "rusty",
    "round",
    "silver",
    "small",
    "soft",
    "striped",
    "tall",
    "thin",
    "tin",
    "torn",
    "white",
    "wide",
    "wooden",
    "yellow",
]
THINGS = [
    "anchor",
    "basket",
    "bell",
    "blanket",
    "book",
    "boot",
    "bottle",
    "bowl",
    "box",
    "broom",
    "button",
    "candle",
    "cap",
    "chain",
    "clock",
    "cloak",
    "coin",
    "comb",
    "compass",
    "cup",
    "drum",
    "feather",
    "fiddle",
    "flute",
    "glove",
    "hammer",
    "hat",
    "horn",
    "jar",
    "jug",
    "kettle",
    "key",
    "kite",
    "knife",
    "ladder",
    "lamp",
    "lantern",
    "letter",
    "locket",
    "map",
    "mask",
    "mirror",
    "needle",
    "oar",
    "pan",
    "pipe",
    "pot",
    "purse",
    "ring",
    "rope",
    "saddle",
    "scarf",
    "shell",
    "shovel",
    "spoon",
    "stone",
    "sword",
    "thimble",
    "trumpet",
    "umbrella",
    "wheel",
    "whistle",
]
MATERIALS = [
    "barrel",
    "basket",
    "bell",
    "boat",
    "book",
    "bread",
    "bridge",
    "button",
    "candle",
    "cheese",
    "clock",
    "cloth",
    "coat",
    "coin",
    "drum",
    "fence",
    "fiddle",
    "flour",
    "glass",
    "glove",
    "harp",
    "hat",
    "herb",
    "honey",
    "ice",
    "kite",
    "lamp",
    "lock",
    "map",
    "net",
    "paper",
    "pot",
    "rope",
    "saddle",
    "salt",
    "sail",
    "shoe",
    "silk",
    "song",
    "spoon",
    "stone",
    "sugar",
    "tent",
    "toy",
    "umbrella",
    "wagon",
    "wall",
    "wheel",
    "wool",
]
TRADES = [
    "carver",
    "keeper",
    "maker",
    "mender",
    "painter",
    "seller",
    "tester",
    "weaver",
    "washer",
    "collector",
]
FEARS = [
    "bats",
    "bees",
    "being alone",
    "being laughed at",
    "bears",
    "big dogs",
    "broken mirrors",
    "closed doors",
    "crowds",
    "dark cellars",
    "deep snow",
    "deep water",
    "empty houses",
    "falling asleep",
    "fire",
    "fog",
    "frogs",
    "geese",
    "getting lost",
    "ghosts",
    "heights",
    "high bridges",
    "horses",
    "ice",
    "lightning",
    "long ladders",
    "loud bells",
    "moths",
    "narrow stairs",
    "old dolls",
    "open windows",
    "owls",
    "quicksand",
    "rats",
    "sharp knives",
    "shadows",
    "snakes",
    "spiders",
    "storms",
    "strangers",
    "strong wind",
    "the dark",
    "the forest",
    "the full moon",
    "the sea",
    "thunder",
    "tunnels",
    "wasps",
    "wells",
    "wolves",
]
FOODS_A = [
    "apple",
    "barley",
    "bean",
    "berry",
    "cheese",
    "cherry",
    "egg",
    "fish",
    "ginger",
    "honey",
    "leek",
    "lemon",
    "mushroom",
    "nut",
    "oat",
    "onion",
    "pear",
    "pea",
    "plum",
    "potato",
    "pumpkin",
    "rhubarb",
    "turnip",
]
FOODS_B = [
    "bread",
    "broth",
    "buns",
    "cake",
    "cakes",
    "dumplings",
    "jam",
    "pancakes",
    "pie",
    "porridge",
    "pudding",
    "salad",
    "sandwiches",
    "soup",
    "stew",
    "tart",
]
COLOURS = [
    "amber",
    "black",
    "blue",
    "brown",
    "cream",
    "crimson",
    "gold",
    "green",
    "grey",
    "orange",
    "pink",
    "purple",
    "red",
    "scarlet",
    "silver",
    "violet",
    "white",
    "yellow",
]
ANIMALS = [
    "badger",
    "beetle",
    "cat",
    "crab",
    "crow",
    "dog",
    "donkey",
    "duck",
    "ferret",
    "fox",
    "frog",
    "goat",
    "goose",
    "hare",
    "hedgehog",
    "hen",
    "lizard",
    "magpie",
    "mole",
    "mouse",
    "newt",
    "otter",
    "owl",
    "parrot",
    "pig",
    "pony",
    "rabbit",
    "raven",
    "robin",
    "snail",
    "sparrow",
    "squirrel",
    "toad",
    "tortoise",
]
PET_ADJECTIVES = [
    "black",
    "brown",
    "clever",
    "fat",
    "grey",
    "lame",
    "lazy",
    "little",
    "noisy",
    "old",
    "one-eyed",
    "quiet",
    "shy",
    "sleepy",
    "small",
    "speckled",
    "spotted",
    "tame",
    "white",
    "young",
]
KINDS = [
    "boy",
    "girl",
    "man",
    "woman",
    "old man",
    "old woman",
    "young man",
    "young woman",
    "giant",
    "dwarf",
    "elf",
    "witch",
    "wizard",
    "troll",
    "goblin",
    "knight",
    "pirate",
    "hermit",
    "queen",
    "prince",
    "princess",
    "talking fox",
    "talking bear",
    "talking badger",
    "talking crow",
    "talking hare",
    "sea captain",
    "robot",
    "ghost",
    "mermaid",
]
HOBBIES = [
    "baking bread",
    "carving spoons",
    "catching crabs",
    "climbing trees",
    "collecting buttons",
    "collecting keys",
    "collecting shells",
    "counting stars",
    "dancing",
    "drawing maps",
    "feeding birds",
    "fishing",
    "flying kites",
    "growing pumpkins",
    "growing roses",
    "juggling",
    "keeping bees",
    "knitting",
    "making candles",
    "mending clocks",
    "painting birds",
    "picking mushrooms",
    "playing cards",
    "playing chess",
    "playing the drum",
    "playing the fiddle",
    "playing the flute",
    "playing the harp",
    "pressing flowers",
    "racing snails",
    "reading old letters",
    "riding ponies",
    "rowing",
    "singing",
    "skating",
    "sewing",
    "solving riddles",
    "swimming",
    "telling stories",
    "training dogs",
    "walking at night",
    "watching trains",
    "whistling",
    "writing poems",
]
PLAN_VERBS = [
    "build a {thing_place}",
    "open a {material} shop",
    "sail to {place}",
    "walk to {place}",
    "find the lost {thing}",
    "buy back the {adjective} {thing}",
    "learn to play the {instrument}",
    "win the {material} race",
    "write a book about {animal}s",
    "dig a tunnel to {place}",
    "paint every door in {place}",
    "catch the {adjective} {animal}",
    "plant a hundred {tree} trees",
    "visit {person}",
    "mend the {adjective} {thing}",
    "cook for the {royal} of {place}",
]
THING_PLACES = [
    "bakery",
    "boat",
    "bridge",
    "castle",
    "garden",
    "library",
    "lighthouse",
    "mill",
    "raft",
    "school",
    "theatre",
    "tower",
    "treehouse",
    "windmill",
]
INSTRUMENTS = ["bagpipes", "drum", "fiddle", "flute", "harp", "horn", "organ", "piano", "trumpet"]
TREES = [
    "apple",
    "ash",
    "birch",
    "cherry",
    "elm",
    "hazel",
    "lime",
    "oak",
    "pear",
    "pine",
    "plum",
    "willow",
]
ROYALS = ["duke", "king", "mayor", "prince", "queen"]
HIDING = [
    "behind the {tree} tree",
    "in the {adjective} {thing}",
    "in the cellar",
    "in the chimney",
    "in the church tower",
    "in the clock",
    "in the garden wall",
    "in the hay",
    "in the old mill",
    "in the well",
    "under the bed",
    "under the bridge",
    "under the doorstep",
    "under the floor",
    "under the stairs",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WEATHER = [
    "bright",
    "cloudy",
    "cold",
    "dry",
    "foggy",
    "frosty",
    "hot",
    "misty",
    "rainy",
    "snowy",
    "sunny",
    "warm",
    "wet",
    "windy",
]


def a(phrase: str) -> str:
    """Put the right indefinite article before a phrase."""
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def given_name(rng: Random, endings: Sequence[str] = ENDINGS) -> str:
    """An invented first name of two or three syllables."""
    middle = rng.choice(VOWELS) + rng.choice(MIDDLES) if rng.random() < 0.35 else ""
    stem = rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(MIDDLES)
    return stem + middle + rng.choice(endings)


def surname(rng: Random) -> str:
    return rng.choice(SURNAME_HEADS) + rng.choice(SURNAME_TAILS)


def place(rng: Random) -> str:
    head = (
        given_name(rng)
        if rng.random() < 0.4
        else rng.choice(SURNAME_HEADS) + rng.choice(SURNAME_TAILS)
    )
    return f"{head} {rng.choice(PLACE_TAILS)}" if rng.random() < 0.6 else head


def plan(rng: Random) -> str:
    return rng.choice(PLAN_VERBS).format(
        thing_place=rng.choice(THING_PLACES),
        material=rng.choice(MATERIALS),
        place=place(rng),
        thing=rng.choice(THINGS),
        adjective=rng.choice(ADJECTIVES),
        animal=rng.choice(ANIMALS),
        instrument=rng.choice(INSTRUMENTS),
        tree=rng.choice(TREES),
        royal=rng.choice(ROYALS),
        person=given_name(rng),
    )


def hiding_place(rng: Random) -> str:
    return rng.choice(HIDING).format(
        tree=rng.choice(TREES), adjective=rng.choice(ADJECTIVES), thing=rng.choice(THINGS)
    )


# --- facts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    """How one kind of fact is drawn, told and asked.

    In templates `{v}` is the value, `{N}` the full name or a pronoun for it (subject), `{o}` its
    possessive, `{s}` the third-person verb ending; in first-person templates the speaker is "I".
    """

    key: str
    draw: Callable[[Random], str]
    field: str
    third: Sequence[str]
    first: Sequence[str]
    ask_third: Sequence[str]
    ask_second: Sequence[str]


FACTS: tuple[Fact, ...] = (
    Fact(
        "kind",
        lambda r: a(r.choice(KINDS)),
        "Kind",
        ["{N} is {v}.", "{N} was born {v}.", "As everybody knows, {N} is {v}."],
        ["I am {v}.", "I was born {v}.", "As you can see, I am {v}."],
        ["What is {N}?", "Who is {N}?", "What kind of being is {N}?", "Tell me what {N} is."],
        ["What are you?", "Who are you?", "What kind of being are you?", "Tell me what you are."],
    ),
    Fact(
        "home",
        place,
        "Home",
        [
            "{N} live{s} in {v}.",
            "{o} home is in {v}.",
            "{N} make{s} {o_} home in {v}.",
            "The house of {F} stands in {v}.",
        ],
        [
            "I live in {v}.",
            "My home is in {v}.",
            "I make my home in {v}.",
            "My house stands in {v}.",
        ],
        [
            "Where does {N} live?",
            "Where is the home of {N}?",
            "In which place does {N} live?",
            "Where can I find {N}?",
            "Which place does {N} call home?",
        ],
        [
            "Where do you live?",
            "Where is your home?",
            "In which place do you live?",
            "Where can I find you?",
            "Which place do you call home?",
        ],
    ),
    Fact(
        "work",
        lambda r: a(f"{r.choice(MATERIALS)} {r.choice(TRADES)}"),
        "Work",
        [
            "{N} work{s} as {v}.",
            "{N} earn{s} a living as {v}.",
            "By trade {N_} is {v}.",
            "{N} became {v} long ago.",
        ],
        [
            "I work as {v}.",
            "I earn my living as {v}.",
            "By trade I am {v}.",
            "I became {v} long ago.",
        ],
        [
            "What is the work of {N}?",
            "What does {N} do for a living?",
            "What job does {N} have?",
            "What is {N} by trade?",
            "How does {N} earn money?",
        ],
        [
            "What is your work?",
            "What do you do for a living?",
            "What job do you have?",
            "What are you by trade?",
            "How do you earn money?",
        ],
    ),
    Fact(
        "treasure",
        lambda r: a(f"{r.choice(ADJECTIVES)} {r.choice(THINGS)}"),
        "Treasure",
        [
            "{N} always carr{y} {v}.",
            "{o} greatest treasure is {v}.",
            "{N} would never give away {v}.",
            "{N} own{s} {v} and love{s} it.",
        ],
        [
            "I always carry {v}.",
            "My greatest treasure is {v}.",
            "I would never give away {v}.",
            "I own {v} and love it.",
        ],
        [
            "What does {N} always carry?",
            "What is the treasure of {N}?",
            "What thing does {N} own?",
            "What would {N} never give away?",
            "Which thing is dear to {N}?",
        ],
        [
            "What do you always carry?",
            "What is your treasure?",
            "What thing do you own?",
            "What would you never give away?",
            "Which thing is dear to you?",
        ],
    ),
    Fact(
        "friend",
        given_name,
        "Best friend",
        [
            "{o} best friend is {v}.",
            "{N} trust{s} {v} more than anyone.",
            "{N} and {v} are old friends.",
            "{N} spend{s} most evenings with {o_} friend {v}.",
        ],
        [
            "My best friend is {v}.",
            "I trust {v} more than anyone.",
            "{v} and I are old friends.",
            "I spend most evenings with my friend {v}.",
        ],
        [
            "Who is the best friend of {N}?",
            "Who is a friend of {N}?",
            "Whom does {N} trust?",
            "What is the name of the friend of {N}?",
            "With whom is {N} friends?",
        ],
        [
            "Who is your best friend?",
            "Who is a friend of yours?",
            "Whom do you trust?",
            "What is the name of your friend?",
            "With whom are you friends?",
        ],
    ),
    Fact(
        "rival",
        given_name,
        "Rival",
        [
            "{o} rival is {v}.",
            "{N} cannot stand {v}.",
            "{N} and {v} have quarrelled for years.",
            "Nobody makes {F} as angry as {v}.",
        ],
        [
            "My rival is {v}.",
            "I cannot stand {v}.",
            "{v} and I have quarrelled for years.",
            "Nobody makes me as angry as {v}.",
        ],
        [
            "Who is the rival of {N}?",
            "Whom does {N} dislike?",
            "With whom does {N} quarrel?",
            "Who makes {N} angry?",
            "Whom can {N} not stand?",
        ],
        [
            "Who is your rival?",
            "Whom do you dislike?",
            "With whom do you quarrel?",
            "Who makes you angry?",
            "Whom can you not stand?",
        ],
    ),
    Fact(
        "fear",
        lambda r: r.choice(FEARS),
        "Fear",
        [
            "{N} is afraid of {v}.",
            "{N} fear{s} {v}.",
            "Nothing frightens {F} like {v}.",
            "{N} run{s} away from {v}.",
        ],
        [
            "I am afraid of {v}.",
            "I fear {v}.",
            "Nothing frightens me like {v}.",
            "I run away from {v}.",
        ],
        [
            "What is {N} afraid of?",
            "What does {N} fear?",
            "What frightens {N}?",
            "What makes {N} run away?",
            "Of what is {N} scared?",
        ],
        [
            "What are you afraid of?",
            "What do you fear?",
            "What frightens you?",
            "What makes you run away?",
            "Of what are you scared?",
        ],
    ),
    Fact(
        "plan",
        plan,
        "Plan",
        [
            "{N} want{s} to {v}.",
            "One day {N_} will {v}.",
            "{o} plan is to {v}.",
            "{N} dream{s} of the day to {v}.",
        ],
        [
            "I want to {v}.",
            "One day I will {v}.",
            "My plan is to {v}.",
            "I dream of the day to {v}.",
        ],
        [
            "What does {N} want to do?",
            "What is the plan of {N}?",
            "What will {N} do one day?",
            "What does {N} dream of?",
            "What does {N} hope to do?",
        ],
        [
            "What do you want to do?",
            "What is your plan?",
            "What will you do one day?",
            "What do you dream of?",
            "What do you hope to do?",
        ],
    ),
    Fact(
        "food",
        lambda r: f"{r.choice(FOODS_A)} {r.choice(FOODS_B)}",
        "Favourite food",
        [
            "{N} love{s} {v}.",
            "{o} favourite food is {v}.",
            "{N} eat{s} {v} every day.",
            "Give {F} {v} and all is well.",
        ],
        [
            "I love {v}.",
            "My favourite food is {v}.",
            "I eat {v} every day.",
            "Give me {v} and all is well.",
        ],
        [
            "What does {N} like to eat?",
            "What is the favourite food of {N}?",
            "What food does {N} love?",
            "What does {N} eat every day?",
            "Which dish makes {N} happy?",
        ],
        [
            "What do you like to eat?",
            "What is your favourite food?",
            "What food do you love?",
            "What do you eat every day?",
            "Which dish makes you happy?",
        ],
    ),
    Fact(
        "pet",
        lambda r: f"{a(r.choice(PET_ADJECTIVES) + ' ' + r.choice(ANIMALS))} called {given_name(r)}",
        "Pet",
        [
            "{N} keep{s} {v}.",
            "{N} ha{z} {v}.",
            "{o} pet is {v}.",
            "{N} share{s} the house with {v}.",
        ],
        ["I keep {v}.", "I have {v}.", "My pet is {v}.", "I share the house with {v}."],
        [
            "What animal does {N} keep?",
            "What pet does {N} have?",
            "Which animal lives with {N}?",
            "Tell me about the pet of {N}.",
            "What creature belongs to {N}?",
        ],
        [
            "What animal do you keep?",
            "What pet do you have?",
            "Which animal lives with you?",
            "Tell me about your pet.",
            "What creature belongs to you?",
        ],
    ),
    Fact(
        "colour",
        lambda r: r.choice(COLOURS),
        "Favourite colour",
        [
            "{o} favourite colour is {v}.",
            "{N} like{s} {v} best of all colours.",
            "{N} wear{s} nothing but {v}.",
            "Everything {N_} own{s} is painted {v}.",
        ],
        [
            "My favourite colour is {v}.",
            "I like {v} best of all colours.",
            "I wear nothing but {v}.",
            "Everything I own is painted {v}.",
        ],
        [
            "What is the favourite colour of {N}?",
            "Which colour does {N} like best?",
            "What colour does {N} wear?",
            "Which colour is dear to {N}?",
        ],
        [
            "What is your favourite colour?",
            "Which colour do you like best?",
            "What colour do you wear?",
            "Which colour is dear to you?",
        ],
    ),
    Fact(
        "age",
        lambda r: str(r.randint(7, 99)),
        "Age",
        [
            "{N} is {v} years old.",
            "{N} ha{z} lived for {v} years.",
            "At {v} years of age, {N_} still feel{s} young.",
            "{N} turned {v} last spring.",
        ],
        [
            "I am {v} years old.",
            "I have lived for {v} years.",
            "At {v} years of age, I still feel young.",
            "I turned {v} last spring.",
        ],
        [
            "How old is {N}?",
            "What is the age of {N}?",
            "How many years has {N} lived?",
            "Can you tell me the age of {N}?",
        ],
        [
            "How old are you?",
            "What is your age?",
            "How many years have you lived?",
            "Can you tell me your age?",
        ],
    ),
    Fact(
        "teacher",
        given_name,
        "Teacher",
        [
            "{N} learned everything from {v}.",
            "{o} teacher was {v}.",
            "{v} taught {F} the trade.",
            "{N} was once the pupil of {v}.",
        ],
        [
            "I learned everything from {v}.",
            "My teacher was {v}.",
            "{v} taught me the trade.",
            "I was once the pupil of {v}.",
        ],
        [
            "Who was the teacher of {N}?",
            "Who taught {N}?",
            "From whom did {N} learn?",
            "Whose pupil was {N}?",
            "Who showed {N} how to work?",
        ],
        [
            "Who was your teacher?",
            "Who taught you?",
            "From whom did you learn?",
            "Whose pupil were you?",
            "Who showed you how to work?",
        ],
    ),
    Fact(
        "secret",
        lambda r: f"{a(r.choice(ADJECTIVES) + ' ' + r.choice(THINGS))} {hiding_place(r)}",
        "Secret",
        [
            "{N} ha{z} hidden {v}.",
            "Secretly, {N_} keep{s} {v}.",
            "Few know that {N_} hid {v}.",
            "{o} secret is {v}.",
        ],
        [
            "I have hidden {v}.",
            "Secretly, I keep {v}.",
            "Few know that I hid {v}.",
            "My secret is {v}.",
        ],
        [
            "What is the secret of {N}?",
            "What has {N} hidden?",
            "What does {N} keep secretly?",
            "What did {N} hide?",
            "What does nobody know about {N}?",
        ],
        [
            "What is your secret?",
            "What have you hidden?",
            "What do you keep secretly?",
            "What did you hide?",
            "What does nobody know about you?",
        ],
    ),
    Fact(
        "hobby",
        lambda r: r.choice(HOBBIES),
        "Hobby",
        [
            "{N} enjoy{s} {v}.",
            "In the evening {N_} like{s} {v}.",
            "{o} hobby is {v}.",
            "{N} spend{s} every free hour {v}.",
        ],
        [
            "I enjoy {v}.",
            "In the evening I like {v}.",
            "My hobby is {v}.",
            "I spend every free hour {v}.",
        ],
        [
            "What is the hobby of {N}?",
            "What does {N} enjoy?",
            "What does {N} do in the evening?",
            "How does {N} spend free time?",
            "What does {N} do for fun?",
        ],
        [
            "What is your hobby?",
            "What do you enjoy?",
            "What do you do in the evening?",
            "How do you spend free time?",
            "What do you do for fun?",
        ],
    ),
    Fact(
        "market",
        lambda r: f"on {r.choice(WEEKDAYS)}",
        "Market day",
        [
            "{N} go{es} to market {v}.",
            "{v^}, {N_} go{es} to market.",
            "{N} sell{s} at the market {v}.",
        ],
        ["I go to market {v}.", "{v^}, I go to market.", "I sell at the market {v}."],
        [
            "When does {N} go to market?",
            "On which day is {N} at the market?",
            "What is the market day of {N}?",
            "On what day can I meet {N} at the market?",
        ],
        [
            "When do you go to market?",
            "On which day are you at the market?",
            "What is your market day?",
            "On what day can I meet you at the market?",
        ],
    ),
)
BY_KEY = {fact.key: fact for fact in FACTS}

PRONOUNS = {"he": ("He", "His", "him"), "she": ("She", "Her", "her"), "it": ("It", "Its", "it")}


@dataclass(frozen=True, slots=True)
class Persona:
    """An invented being: full name, pronoun (he, she, it) and facts by key, in telling order."""

    name: str
    pronoun: str
    facts: tuple[tuple[str, str], ...]

    @property
    def given(self) -> str:
        return self.name.split(" ", 1)[0]

    def value(self, key: str) -> str:
        return dict(self.facts)[key]


def draw_persona(
    rng: Random, *, held_out: bool = False, facts: tuple[int, int] = (6, 12)
) -> Persona:
    """Draw a persona with between `facts[0]` and `facts[1]` facts."""
    name = f"{given_name(rng, HELD_OUT_ENDINGS if held_out else ENDINGS)} {surname(rng)}"
    keys = rng.sample([fact.key for fact in FACTS], rng.randint(*facts))
    if "kind" in keys:  # what somebody is comes first, as in any bio
        keys.remove("kind")
        keys.insert(0, "kind")
    values = tuple((key, BY_KEY[key].draw(rng)) for key in keys)
    return Persona(name, rng.choice(["he", "she", "she", "he", "it"]), values)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def tell_third(persona: Persona, key: str, template: str, *, named: bool) -> str:
    """Fill a third-person template; `named` says the full name, otherwise a pronoun."""
    subject, possessive, _ = PRONOUNS[persona.pronoun]
    value = persona.value(key)
    text = template
    for mark, filling in {
        "{v^}": _capital(value),
        "{v}": value,
        "{F}": persona.given,
        "{N}": persona.name if named else subject,
        "{N_}": persona.given if named else subject.lower(),
        "{o}": f"{persona.name}'s" if named else possessive,
        "{o_}": possessive.lower(),
        "{s}": "s",
        "{es}": "es",
        "{y}": "ies",
        "{z}": "s",
    }.items():
        text = text.replace(mark, filling)
    return _capital(text)


def tell_first(persona: Persona, key: str, template: str) -> str:
    value = persona.value(key)
    return _capital(template.replace("{v^}", _capital(value)).replace("{v}", value))


def say_third(persona: Persona, key: str, rng: Random, *, named: bool) -> str:
    """A sentence about one fact in the third person, in a wording drawn at random."""
    fact = BY_KEY[key]
    pick = rng.randrange(len(fact.third) + len(TELL[key]))
    if pick < len(fact.third):
        return tell_third(persona, key, fact.third[pick], named=named)
    template = TELL[key][pick - len(fact.third)]
    return _filled(template, persona.value(key), _words(persona, named=named), third=True)


def say_first(persona: Persona, key: str, rng: Random) -> str:
    """The same about oneself."""
    fact = BY_KEY[key]
    pick = rng.randrange(len(fact.first) + len(TELL[key]))
    if pick < len(fact.first):
        return tell_first(persona, key, fact.first[pick])
    return _filled(TELL[key][pick - len(fact.first)], persona.value(key), FIRST, third=False)


def _filled(template: str, value: str, words: Mapping[str, str], *, third: bool) -> str:
    marks = {**words, "v": value, "V": _capital(value)}
    return _capital(fill(template, marks, third=third))


def _words(persona: Persona, *, named: bool, whole: bool = True) -> dict[str, str]:
    """What stands for the person in a sentence about one: name or pronoun first, pronouns then."""
    subject, possessive, other = PRONOUNS[persona.pronoun]
    name = persona.name if whole else persona.given
    if not named:
        return {
            "S": subject,
            "s": subject.lower(),
            "P": possessive,
            "p": possessive.lower(),
            "o": other,
        }
    return {"S": name, "s": persona.given, "P": f"{name}'s", "p": f"{persona.given}'s", "o": name}


def bio_third(persona: Persona, rng: Random) -> str:
    """Prose in the third person; the name returns now and then instead of a pronoun."""
    sentences = []
    for index, (key, _) in enumerate(persona.facts):
        named = index == 0 or rng.random() < 0.3
        sentences.append(say_third(persona, key, rng, named=named))
    return " ".join(sentences)


def bio_first(persona: Persona, rng: Random) -> str:
    opening = rng.choice(["My name is {}.", "I am {}.", "They call me {}.", "You may call me {}."])
    told = [say_first(persona, key, rng) for key, _ in persona.facts]
    return " ".join([opening.format(persona.name), *told])


def bio_card(persona: Persona, rng: Random) -> str:
    mark = rng.choice([": ", ": ", " = "])
    rows = [f"Name{mark}{persona.name}"]
    rows += [f"{BY_KEY[key].field}{mark}{value}" for key, value in persona.facts]
    return "\n".join(rows)


def bio_interview(persona: Persona, rng: Random) -> str:
    rows = [f"An interview with {persona.name}."]
    for key, _ in persona.facts:
        question = rng.choice(BY_KEY[key].ask_second[:-1])
        rows.append(f"- {question} - {say_first(persona, key, rng)}")
    return "\n".join(rows)


BIOS = (bio_third, bio_third, bio_first, bio_card, bio_interview)


def bio(persona: Persona, rng: Random) -> str:
    """A bio in a style drawn at random."""
    return rng.choice(BIOS)(persona, rng)


def ask(persona: Persona, key: str, rng: Random, *, second: bool, held_out: bool = False) -> str:
    """A question about one fact; the last phrasing of each list is kept for evaluation."""
    phrasings = BY_KEY[key].ask_second if second else BY_KEY[key].ask_third
    name = persona.name if rng.random() < 0.7 else persona.given
    if held_out:
        return phrasings[-1].replace("{N}", name)
    pick = rng.randrange(len(phrasings) - 1 + len(ASK[key]))
    if pick < len(phrasings) - 1:
        return phrasings[pick].replace("{N}", name)
    words = SECOND if second else _words(persona, named=True, whole=name == persona.name)
    return _filled(ASK[key][pick - len(phrasings) + 1], "", words, third=not second)


def as_typed(question: str, rng: Random) -> str:
    """The same question with a lead, or in the careless spelling of a chat, or as it is."""
    chance = rng.random()
    if chance < 0.18:
        lead = rng.choice(LEADS)
        lower = lead[-4] not in ".!" and question[:2] != "I "
        return lead.format(question[0].lower() + question[1:] if lower else question)
    if chance < 0.30:
        careless = question.rstrip("?.").replace("What is", "What's").replace("Who is", "Who's")
        careless = careless.replace("favourite", "favorite").replace("colour", "color")
        return careless[0].lower() + careless[1:] + rng.choice(["", "?", "?"])
    return question


def answer(persona: Persona, key: str, rng: Random, *, second: bool) -> str:
    """An answer: the bare value, or a sentence."""
    if rng.random() < 0.25:
        return _capital(persona.value(key)) + "."
    if second:
        return say_first(persona, key, rng)
    return say_third(persona, key, rng, named=rng.random() < 0.7)


def yes_or_no(persona: Persona, key: str, rng: Random, *, second: bool) -> list[Turn]:
    """Whether a value is that of the persona, with the right value in the answer."""
    words = SECOND if second else _words(persona, named=True, whole=rng.random() < 0.5)
    true = rng.random() < 0.5
    value = persona.value(key) if true else BY_KEY[key].draw(rng)
    question = _filled(rng.choice(YES_NO[key]), value, words, third=not second)
    said = say_first(persona, key, rng) if second else say_third(persona, key, rng, named=False)
    if not said.startswith(("I ", persona.given, persona.value(key)[0].upper())):
        said = said[0].lower() + said[1:]
    return [("user", question), ("assistant", f"{'Yes' if true else 'No'}, {said}")]


def about_oneself(persona: Persona, rng: Random) -> list[Turn]:
    """Two to four facts in one answer."""
    keys = [key for key, _ in persona.facts]
    told = " ".join(say_first(persona, k, rng) for k in keys[: rng.randint(2, 4)])
    ask_for = rng.choice([
        "Tell me about yourself.",
        "Who are you, and what do you do?",
        "I would like to know you better.",
        "Please introduce yourself.",
        "What should I know about you?",
    ])  # fmt: skip
    return [("user", ask_for), ("assistant", f"I am {persona.name}. {told}")]


UNKNOWN = (
    "I was not told that.",
    "I do not know that.",
    "Nobody told me that.",
    "The text does not say.",
)
EVASIVE = (  # what a character says who was not told
    "I do not know.",
    "That I cannot tell you.",
    "I would rather not talk about that.",
    "I could not say.",
)


def questions(
    persona: Persona, rng: Random, count: int, *, second: bool, unknown: float = 0.0
) -> list[Turn]:
    """User and assistant turns about facts drawn at random, some of them never told."""
    turns: list[Turn] = []
    keys = [key for key, _ in persona.facts]
    missing = [fact.key for fact in FACTS if fact.key not in keys]
    rng.shuffle(keys)
    for key in (keys * 2)[:count]:
        if missing and rng.random() < unknown:
            turns.append(("user", ask(persona, rng.choice(missing), rng, second=second)))
            turns.append(("assistant", rng.choice(EVASIVE if second else UNKNOWN)))
        elif rng.random() < 0.1:
            turns += yes_or_no(persona, key, rng, second=second)
        else:
            turns.append(("user", as_typed(ask(persona, key, rng, second=second), rng)))
            turns.append(("assistant", answer(persona, key, rng, second=second)))
            if second and key in WHY and rng.random() < 0.12:
                further, replies = rng.choice(WHY[key])
                turns += [("user", further), ("assistant", rng.choice(replies))]
    return turns


# --- documents ---------------------------------------------------------------------------------

GREETINGS = (
    ("Hello.", "Hello. I am {}."),
    ("Good morning.", "Good morning to you. I am {}."),
    ("Hi, what is your name?", "My name is {}."),
    ("Who is there?", "It is me, {}."),
    ("Hello! Nice to meet you.", "Hello! Nice to meet you too. My name is {}."),
    ("What is your name?", "I am {}."),
    ("May I ask your name?", "Of course. I am {}."),
)
FAREWELLS = (
    ("Thank you.", "You are welcome."),
    ("Goodbye.", "Goodbye, and come again."),
    ("It was nice to talk with you.", "It was nice to talk with you too."),
    ("I have to go now.", "Then travel safely, my friend."),
    ("Good night.", "Good night. Sleep well."),
)


def _small_talk(rng: Random, turns: list[Turn], persona: Persona, *, more: float) -> list[Turn]:
    """The same turns between greetings, farewells and talk about nothing in particular."""
    out: list[Turn] = []
    if rng.random() < 0.4:
        hello, reply = rng.choice(GREETINGS)
        out += [("user", hello), ("assistant", reply.format(persona.name))]
    if rng.random() < 0.12:
        out += about_oneself(persona, rng)
    for index in range(0, len(turns), 2):
        out += turns[index : index + 2]
        if rng.random() < more:
            remarks, replies = rng.choice(SMALL_TALK)
            out += [("user", rng.choice(remarks)), ("assistant", rng.choice(replies))]
    if rng.random() < 0.25:
        bye, reply = rng.choice(FAREWELLS)
        out += [("user", bye), ("assistant", reply)]
    return out


def chat_with_bio(rng: Random, *, unknown: float = 0.06) -> list[Turn]:
    """The bio stands in the system message; the character answers for itself."""
    persona = draw_persona(rng)
    opening = rng.choice(["You are {}. ", "You are {}.\n", "Play {}. ", ""]).format(persona.name)
    turns = questions(persona, rng, rng.randint(4, 9), second=True, unknown=unknown)
    more = rng.choice([0.05, 0.1, 0.5])
    return [("system", opening + bio(persona, rng)), *_small_talk(rng, turns, persona, more=more)]


def reading(rng: Random, *, unknown: float = 0.06) -> list[Turn]:
    """One to three bios stand in the first question; the assistant answers about them."""
    people = [draw_persona(rng, facts=(3, 8)) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    text = "\n\n".join(bio(person, rng) for person in people)
    turns: list[Turn] = []
    for _ in range(rng.randint(4, 8)):
        turns += questions(rng.choice(people), rng, 1, second=False, unknown=unknown)
    lead = rng.choice(["Read this.\n{}", "{}", "Here is a text.\n{}", "Answer from this text.\n{}"])
    if rng.random() < 0.5:
        return [("system", lead.format(text)), *turns]
    role, first = turns[0]
    return [(role, f"{lead.format(text)}\n\n{first}"), *turns[1:]]


def write_questions(rng: Random) -> list[Turn]:
    """The assistant writes questions and short answers about a text: what a teacher does.

    Mostly about everything in the text, in its order, so that nothing is made up.
    """
    persona = draw_persona(rng, facts=(3, 9))
    text = bio(persona, rng)
    keys = [key for key, _ in persona.facts]
    second = rng.random() < 0.5
    lead = "Write questions and answers about this text."
    if second:
        lead = f"Write questions to {persona.given}, and what {persona.given} answers."
    if rng.random() < 0.3:
        count = rng.randint(1, min(6, len(keys)))
        keys = sorted(rng.sample(keys, count), key=keys.index)
        lead = lead.replace("questions", f"{count} questions" if count > 1 else "a question")
    rows = [
        f"Q: {ask(persona, key, rng, second=second)}\nA: {answer(persona, key, rng, second=second)}"
        for key in keys
    ]
    asked = f"{lead}\n\n{text}" if rng.random() < 0.6 else f"{text}\n\n{lead}"
    return [("user", asked), ("assistant", "\n".join(rows))]


def study(rng: Random) -> list[Turn]:
    """Three questions and answers to one sentence of a text, as the recipe `study` asks for them."""
    persona = draw_persona(rng, facts=(3, 12))
    text = bio(persona, rng)
    pieces = [piece for piece in sentences(text) if is_statement(piece)]
    second = rng.random() < 0.5
    key, value = rng.choice(persona.facts)
    named = [piece for piece in pieces if persona.name in piece and value not in piece][:1]
    if named and rng.random() < 0.06:
        sentence = named[0]
        rows = _name_questions(persona, rng, second=second)
    else:
        told = [piece for piece in pieces if value.lower() in piece.lower()]
        sentence = rng.choice(told)
        asked = {ask(persona, key, rng, second=second) for _ in range(9)}
        rows = [
            (question, answer(persona, key, rng, second=second))
            for question in rng.sample(sorted(asked), min(3, len(asked)))
        ]
    form = ASK_PERSON if second else ASK_ABOUT
    written = "\n".join(f"Q: {question}\nA: {said}" for question, said in rows)
    return [("user", form.format(text=text, sentence=sentence)), ("assistant", written)]


def _name_questions(persona: Persona, rng: Random, *, second: bool) -> list[Turn]:
    if second:
        asked = [
            "What is your name?",
            "Who are you?",
            "How are you called?",
            "May I ask your name?",
        ]
        said = ["My name is {}.", "I am {}.", "You may call me {}.", "They call me {}."]
    else:
        asked = ["Who is this about?", "What is the name?", "Whose bio is this?", "Who is it?"]
        said = ["{}.", "This is about {}.", "The name is {}.", "It is {}."]
    return [(question, rng.choice(said).format(persona.name)) for question in rng.sample(asked, 3)]


def retell(rng: Random) -> list[Turn]:
    """The assistant tells the same facts again in another style."""
    persona = draw_persona(rng, facts=(4, 9))
    order, style = rng.choice(
        [
            ("Tell this in other words.", bio_third),
            ("Write this as a story about the person.", bio_third),
            ("Write this as a card.", bio_card),
            ("Let the person tell this.", bio_first),
            ("Write this as an interview.", bio_interview),
        ]
    )
    return [("user", f"{order}\n\n{bio(persona, rng)}"), ("assistant", style(persona, rng))]


def about_user(rng: Random) -> list[Turn]:
    """The user tells facts in the chat and asks for them later."""
    persona = draw_persona(rng, facts=(3, 6))
    turns: list[Turn] = [
        ("user", f"My name is {persona.name}."),
        ("assistant", f"Nice to meet you, {persona.given}."),
    ]
    for key, value in persona.facts:
        reply = rng.choice(
            [
                "I see.",
                "How interesting.",
                "I will remember that.",
                "Good to know.",
                f"{_capital(value)}? I see.",
                "Tell me more.",
            ]
        )
        turns += [
            ("user", say_first(persona, key, rng)),
            ("assistant", reply),
        ]
    if rng.random() < 0.5:
        turns += [("user", "What is my name?"), ("assistant", f"Your name is {persona.name}.")]
    value_of = dict(persona.facts)
    for key in rng.sample([key for key, _ in persona.facts], len(persona.facts)):
        said = _capital(persona.value(key)) + "."
        if rng.random() < 0.5:
            said = _filled(rng.choice(TELL[key]), value_of[key], SECOND, third=False)
        turns += [("user", _about_me(key, rng)), ("assistant", said)]
    return turns


def _about_me(key: str, rng: Random) -> str:
    if rng.random() < 0.5:
        return (
            _filled(rng.choice(ASK[key]), "", FIRST, third=False)
            .replace("Are I ", "Am I ")
            .replace("are I", "am I")
        )
    text = rng.choice(BY_KEY[key].ask_second[:-1])
    for old, new in (
        (" are you ", " am I "),
        (" are you?", " am I?"),
        (" are you.", " am I."),
        ("you are", "I am"),
        (" yours", " mine"),
        (" your ", " my "),
        ("do you ", "do I "),
        ("did you ", "did I "),
        ("have you ", "have I "),
        ("will you ", "will I "),
        ("would you ", "would I "),
        ("were you", "was I"),
        ("can you ", "can I "),
        (" you", " me"),
    ):
        text = text.replace(old, new)
    return text


def lookup(rng: Random) -> list[Turn]:
    """Small tables and lists in the prompt, questions that can only be copied from it."""
    style = rng.randrange(3)
    if style == 0:
        keys = rng.sample(THINGS, rng.randint(3, 9))
        values = [rng.choice(ADJECTIVES) + " " + rng.choice(THINGS) for _ in keys]
        text = " ".join(f"In the {k} is {a(v)}." for k, v in zip(keys, values, strict=True))
        asks, says = "What is in the {}?", "In the {} is {}."
        values = [a(v) for v in values]
    elif style == 1:
        keys = list({given_name(rng) for _ in range(rng.randint(3, 10))})
        values = [str(rng.randint(10, 999)) for _ in keys]
        text = "\n".join(f"{k}: {v}" for k, v in zip(keys, values, strict=True))
        asks, says = "What is the number of {}?", "The number of {} is {}."
    else:
        keys = list({given_name(rng) for _ in range(rng.randint(3, 8))})
        values = [place(rng) for _ in keys]
        text = " ".join(f"{k} went to {v}." for k, v in zip(keys, values, strict=True))
        asks, says = "Where did {} go?", "{} went to {}."
    turns: list[Turn] = []
    for index in rng.sample(range(len(keys)), len(keys)):
        short = rng.random() < 0.4
        said = _capital(values[index]) + "." if short else says.format(keys[index], values[index])
        turns += [("user", asks.format(keys[index])), ("assistant", said)]
    return [("system", text), *turns]


def tale(rng: Random) -> str:
    """A short tale of simple sentences around one persona."""
    persona = draw_persona(rng, facts=(5, 9))
    values = dict(persona.facts)
    name, subject = persona.given, PRONOUNS[persona.pronoun][0]
    possessive = PRONOUNS[persona.pronoun][1].lower()
    friend, thing = (
        values.get("friend", given_name(rng)),
        rng.choice(ADJECTIVES) + " " + rng.choice(THINGS),
    )
    where, other = values.get("home", place(rng)), place(rng)
    fear, food = values.get("fear", rng.choice(FEARS)), values.get("food", "warm bread")
    weather, day = rng.choice(WEATHER), rng.choice(WEEKDAYS)
    opening = [
        f"Once there was {values.get('kind', 'a traveller')} called {name} who lived in {where}.",
        f"In {where} lived {values.get('kind', 'a traveller')} whose name was {name}.",
        f"Long ago, in {where}, there lived {values.get('kind', 'a traveller')}. The name was {name}.",
    ]
    middle = [
        f"One {weather} morning {name} lost {a(thing)}.",
        f'"Where is my {thing}?" said {name}.',
        f"{subject} looked {hiding_place(rng)}, but there was nothing.",
        f"Then {friend} came along the road.",
        f'"What are you looking for?" asked {friend}.',
        f'"I have lost my {thing}," said {name}.',
        f'"Then let us look for it together," said {friend}.',
        f"They walked to {other}, and it took them all {day}.",
        f"On the way they met {a(rng.choice(PET_ADJECTIVES) + ' ' + rng.choice(ANIMALS))}.",
        f"{name} was afraid of {fear}, but {friend} held {possessive} hand.",
        f"At last they found the {thing} {hiding_place(rng)}.",
    ]
    ending = [
        f"{name} laughed, and they went home and ate {food}.",
        f"That evening they ate {food} by the fire, and {name} slept well.",
        f'"Thank you, {friend}," said {name}. "I will never forget it."',
    ]
    kept = [line for index, line in enumerate(middle) if index in (0, 3, 10) or rng.random() < 0.75]
    mark = "\n\n" if rng.random() < 0.2 else " "
    return mark.join([rng.choice(opening), *kept, rng.choice(ending)])


def residents(seed: int, count: int) -> list[Persona]:
    """The fixed people whom the model knows by heart: bios and questions in many styles."""
    rng = Random(seed)
    return [draw_persona(rng, facts=(9, 12)) for _ in range(count)]


def resident_document(people: Sequence[Persona], rng: Random) -> str | list[Turn]:
    """A bio of a resident (raw text), or a chat about a resident with nothing in the prompt."""
    persona = rng.choice(people)
    if rng.random() < 0.4:
        return bio(persona, rng)
    if rng.random() < 0.5:
        turns = questions(persona, rng, rng.randint(3, 9), second=True)
        return [
            ("system", f"You are {persona.name}."),
            *_small_talk(rng, turns, persona, more=0.1),
        ]
    turns = []
    for _ in range(rng.randint(3, 9)):
        turns += questions(
            rng.choice(people) if rng.random() < 0.3 else persona, rng, 1, second=False
        )
    return turns
