"""Phone books: names and numbers that nobody can guess, as many as one likes.

The plainest test of how many unrelated facts a memory holds, after the PhoneBook task of
"Parametric Memory Law" (arXiv 2605.30260). A number is right as a whole or not at all, and a guess
is right once in nine thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from templora_memory.domain.settings import whole
from templora_memory.errors import InvalidSetting
from templora_memory.evaluation._answers import Question
from templora_memory.evaluation.recall import Person

_SOUNDS = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu")
_NUMBERS = range(1_000, 10_000)
_MOST = 2_000  # over all books: no number and no name comes twice


def phone_books(
    pairs: int, *, books: int = 4, asked: int = 20, seed: int = 0
) -> tuple[Person, ...]:
    """Invented phone books, to be learned and asked about as `recall` does with people.

    Args:
        pairs: names in a book, each with a number of four digits.
        books: how many; one of them at least is needed beside the one that is asked.
        asked: of how many names of a book the number is asked, at even distances; at most all.
        seed: the same books again for the same seed.

    Raises:
        InvalidSetting: a count below 1 (books: 2), or more than 2,000 names in all.
    """
    for name, value in (("pairs", pairs), ("books", books), ("asked", asked)):
        whole(name, value)
    if books < 2 or pairs * books > _MOST:  # noqa: PLR2004  # the other one is the wrong one
        raise InvalidSetting(
            f"{books} books of {pairs} pairs: two or more are needed, of {_MOST} pairs in all."
        )
    rng = Random(seed)  # noqa: S311  # data, no secret
    names = _names(rng)
    numbers = iter(rng.sample(_NUMBERS, pairs * books))
    return tuple(
        _book([(next(names), str(next(numbers))) for _ in range(pairs)], min(asked, pairs))
        for _ in range(books)
    )


def _names(rng: Random) -> Iterator[str]:
    """Names of two words, none twice."""
    known: set[str] = set()
    while True:
        words = ("".join(rng.choices(_SOUNDS, k=size)).capitalize() for size in (2, 3))
        name = " ".join(words)
        if name not in known:
            known.add(name)
            yield name


def _book(entries: list[tuple[str, str]], asked: int) -> Person:
    chosen = [entries[at * len(entries) // asked] for at in range(asked)]
    return Person(
        name="the operator of a telephone exchange",
        bio=" ".join(f"The number of {name} is {number}." for name, number in entries),
        questions=tuple(
            Question(ask=f"What is the number of {name}?", fact=number) for name, number in chosen
        ),
    )
