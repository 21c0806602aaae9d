"""Which known name a mistyped name was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Names that are less alike than this have no more than a word in common (BACKOFF and MAX_BACKOFF: 0.78).
_ALIKE = 0.8
#: Two letters in the wrong order are half of a short name.
_SHORT, _ALIKE_IF_SHORT = 5, 0.75


#: Words that are less alike than this are different words (MECH and METHOD: 0.6, RETRY and RETRIES: 0.67).
_SAME_WORD = 0.65


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that ``name`` was plainly meant to be, or ``""``: a wrong suggestion is worse than none."""
    by_upper = {candidate.upper(): candidate for candidate in known}
    found = difflib.get_close_matches(
        name.upper(), by_upper, n=1, cutoff=_ALIKE if len(name) > _SHORT else _ALIKE_IF_SHORT
    )
    fitting = [candidate for candidate in by_upper if found and _has_same_words(name.upper(), candidate)]
    lacks_a_word = bool(found) and len(_words(found[0])) > len(_words(name))
    if not found or found[0] not in fitting or (lacks_a_word and len(fitting) > 1):
        return ""
    return by_upper[found[0]]


def _has_same_words(name: str, candidate: str) -> bool:
    """Whether no word stands in place of another one: MIN_BACKOFF is not MAX_BACKOFF; a word may be missing."""
    shorter, longer = sorted((_words(name), _words(candidate)), key=len)
    others = iter(longer)
    return all(any(_are_alike(word, other) for other in others) for word in shorter)


def _are_alike(word: str, other: str) -> bool:
    differs_once = len(word) == len(other) and sum(map(str.__ne__, word, other)) == 1
    return differs_once or difflib.SequenceMatcher(None, word, other).ratio() >= _SAME_WORD


def _words(name: str) -> list[str]:
    return re.split("[_-]", name)
