# SPDX-License-Identifier: MIT
"""Numbers in words: a translation task with exact answers that needs no file."""

from __future__ import annotations

import random

from .pairs import Pair

_LIMIT = 1_000_000
_ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_FRENCH = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
    "seize dix-sept dix-huit dix-neuf"
).split()
_FRENCH_TENS = "vingt trente quarante cinquante soixante soixante".split()


def english_number(number: int) -> str:
    """Returns a number below a million in English words: 407 is "four hundred and seven".

    Raises:
        ValueError: it is negative or too large.
    """
    _check(number)
    thousands, rest = divmod(number, 1000)
    if not thousands:
        return _english_below_thousand(rest)
    head = f"{_english_below_thousand(thousands)} thousand"
    if not rest:
        return head
    return f"{head} {'and ' if rest < 100 else ''}{_english_below_thousand(rest)}"


def french_number(number: int) -> str:
    """Returns a number below a million in French words: 407 is "quatre cent sept".

    Spelling before the reform of 1990: no hyphens around "cent", "mille" and "et".

    Raises:
        ValueError: it is negative or too large.
    """
    _check(number)
    thousands, rest = divmod(number, 1000)
    if not thousands:
        return _french_below_thousand(rest, last=True)
    # "mille" takes no "un", and numbers before it lose their plural s.
    words = [] if thousands == 1 else [_french_below_thousand(thousands, last=False)]
    words.append("mille")
    return " ".join([*words, _french_below_thousand(rest, last=True)] if rest else words)


def number_pairs(count: int, *, seed: int = 0, limit: int = _LIMIT) -> list[Pair]:
    """Returns pairs of the same number in English and French, each number once.

    Args:
        count: how many pairs.
        seed: of the choice and the order. Default 0.
        limit: numbers are below it, at most a million. Default a million.

    Raises:
        ValueError: there are not so many numbers.
    """
    if not 0 <= count <= limit <= _LIMIT:
        raise ValueError(
            f"count: expected 0 to limit, and limit at most {_LIMIT:,}, got {count:,} and {limit:,}"
        )
    chosen = random.Random(seed).sample(range(limit), count)
    return [Pair(english_number(number), french_number(number)) for number in chosen]


def _english_below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [f"{_ENGLISH[hundreds]} hundred"] if hundreds else []
    if rest or not hundreds:
        tens, ones = divmod(rest, 10)
        if rest < 20:
            words.append(_ENGLISH[rest])
        else:
            words.append(_ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH[ones]}" if ones else ""))
    return " and ".join(words)


def _french_below_thousand(number: int, *, last: bool) -> str:
    hundreds, rest = divmod(number, 100)
    words = []
    if hundreds:
        words = ["cent"] if hundreds == 1 else [_FRENCH[hundreds], "cent"]
        if hundreds > 1 and not rest and last:
            words[-1] = "cents"
    if rest or not hundreds:
        words.append(_french_below_hundred(rest, last=last))
    return " ".join(words)


def _french_below_hundred(number: int, *, last: bool) -> str:
    if number < 20:
        return _FRENCH[number]
    if number >= 80:
        rest = number - 80
        return f"quatre-vingt-{_FRENCH[rest]}" if rest else "quatre-vingt" + "s" * last
    tens, ones = divmod(number, 10)
    if tens == 7:
        # Counted on from sixty: soixante et onze, soixante-douze.
        ones += 10
    head = _FRENCH_TENS[tens - 2]
    if ones in (1, 11):
        return f"{head} et {_FRENCH[ones]}"
    return f"{head}-{_FRENCH[ones]}" if ones else head


def _check(number: int) -> None:
    if not 0 <= number < _LIMIT:
        raise ValueError(f"number: expected 0 to {_LIMIT - 1:,}, got {number:,}")
