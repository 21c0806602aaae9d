"""Which known name a mistyped name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Names that are less alike than this have no more than a word in common (BACKOFF and MAX_BACKOFF: 0.78).
_ALIKE = 0.8
#: Two letters in the wrong order are half of a short name.
_SHORT, _ALIKE_IF_SHORT = 5, 0.75


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that ``name`` was plainly meant to be, or ``""``: a wrong suggestion is worse than none."""
    by_upper = {candidate.upper(): candidate for candidate in known}
    found = difflib.get_close_matches(
        name.upper(), by_upper, n=1, cutoff=_ALIKE if len(name) > _SHORT else _ALIKE_IF_SHORT
    )
    return by_upper[found[0]] if found else ""
