"""An address that is to be erased: where it occurs in lists and texts, and what these are without it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

#: What takes the place of the address in a text that stays.
ERASED = "[erased]"


@dataclass(frozen=True)
class ErasedAddress:
    """The spellings of one address: its domain in ASCII, and as people write it.

    The local part is compared in any case: no provider of today gives ``Ann@`` and ``ann@`` to two persons.
    """

    spellings: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Not the address of another person: joann@example.org, bo+ann@example.org, ann@example.org.uk.
        either = "|".join(map(re.escape, self._written))
        return re.compile(rf"(?<![\w.+-])(?:{either})(?![\w-]|\.\w)", re.IGNORECASE)

    @cached_property
    def _written(self) -> tuple[str, ...]:
        """As text has it, and as a link has it (``?email=ann%40example.org``)."""
        linked = (spelling.replace("@", "%40") for spelling in self.spellings)
        return tuple(dict.fromkeys([*self.spellings, *linked]))

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Every text that the address has in a column; JSON columns escape what is not ASCII."""
        escaped = (json.dumps(spelling)[1:-1] for spelling in self._written)
        return tuple(dict.fromkeys([*self._written, *escaped]))

    def is_in(self, value: object) -> bool:
        """Whether the address occurs in a text, or in a value of JSON."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return self._pattern.search(text) is not None

    def is_part_of(self, label: str) -> bool:
        """Whether the label holds the address, also as the end of a longer word: ``welcome-ann@example.org``."""
        return any(spelling.lower() in label.lower() for spelling in self._written)

    def redacted(self, text: str, *, length: int | None = None) -> str:
        """The text with ``[erased]`` in the place of the address, cut at ``length`` characters."""
        return self._pattern.sub(ERASED, text)[:length]

    def without(self, addresses: Iterable[str]) -> list[str]:
        """The entries of an address list that do not hold the address."""
        return [entry for entry in addresses if not self.is_in(entry)]
