"""An address that is to be erased: where it occurs in lists and texts, and what these are without it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

#: What takes the place of the address in a text that stays.
ERASED = "[erased]"

#: What stands in front is no part of the address; in a link it may be percent-encoded, once or twice.
_BEFORE = r"(?:(?<![\w.+-])|(?<=%(?!2b|2d|2e|5f)[0-9a-f]{2})|(?<=%25(?!2b|2d|2e|5f)[0-9a-f]{2}))"
#: Characters that no text, link or HTML writes in another way.
_PLAIN = "[a-z0-9._-]"
_ENTITIES = {"@": "commat", "+": "plus", "'": "apos", "&": "amp"}


@dataclass(frozen=True)
class ErasedAddress:
    """The spellings of one address: its domain in ASCII, and as people write it.

    Each is found as text, HTML and links have it (``ann&#64;example.org``, ``?email=ann%40example.org``).
    The local part is compared in any case: no provider of today gives ``Ann@`` and ``ann@`` to two persons.
    """

    spellings: tuple[str, ...]

    @cached_property
    def _occurrence(self) -> str:
        return "|".join(_everywhere(spelling) for spelling in self.spellings)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Not the address of another person: joann@example.org, bo+ann@example.org, ann@example.org.uk.
        return re.compile(rf"{_BEFORE}(?:{self._occurrence})(?![\w-]|\.\w)", re.IGNORECASE)

    @cached_property
    def plain_parts(self) -> tuple[tuple[str, ...], ...]:
        """For each spelling the parts that are the same in text, HTML and links, for a search by the database."""
        return tuple(dict.fromkeys(tuple(_plain_parts(spelling)) for spelling in self.spellings))

    def is_in(self, value: object) -> bool:
        """Whether the address occurs in a text, or in a value of JSON."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return self._pattern.search(_composed(text)) is not None

    def is_in_file_name(self, name: str) -> bool:
        """Whether a file is named for the address, with a suffix behind it or without."""
        return self.is_in(name) or self.is_in(PurePosixPath(name).stem)

    def is_part_of(self, label: str) -> bool:
        """Whether the label holds the address, also as the end of a longer word: ``welcome-ann@example.org``."""
        return re.search(self._occurrence, _composed(label), re.IGNORECASE) is not None

    def redacted(self, text: str, *, length: int | None = None) -> str:
        """The text with ``[erased]`` in the place of the address, cut at ``length`` characters."""
        return self._pattern.sub(ERASED, _composed(text))[:length]

    def without(self, addresses: Iterable[str]) -> list[str]:
        """The entries of an address list that do not hold the address."""
        return [entry for entry in addresses if not self.is_in(entry)]


def _composed(text: str) -> str:
    """The text in NFC: a letter and its combining mark (``u`` and U+0308) become one character (``ü``)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _everywhere(spelling: str) -> str:
    """Pattern of a spelling, however a text, a link or HTML writes it; the local part may be quoted."""
    local, at, domain = (_each(part) for part in _composed(spelling).rpartition("@"))
    quote = r"""(?:\\?"|&quot;|%22)?"""
    return f"{quote}{local}{quote}{at}{domain}"


def _each(part: str) -> str:
    return "".join(map(_one, part))


def _one(character: str) -> str:
    """Pattern of one character: itself, percent-encoded once or twice, or an entity."""
    if re.fullmatch(_PLAIN, character, re.IGNORECASE):
        return re.escape(character)
    ways = [re.escape(character)]
    for same in dict.fromkeys([character, character.lower(), character.upper()]):
        encoded = "".join(f"%{byte:02x}" for byte in same.encode())
        ways += [encoded, encoded.replace("%", "%25")]
        ways += [f"&#(?:0*{ord(code)}|x0*{ord(code):x});" for code in same if len(same) == 1]
    if name := _ENTITIES.get(character):
        ways.append(f"&{name};")
    return f"(?:{'|'.join(ways)})"


def _plain_parts(spelling: str) -> Iterator[str]:
    local, _at, domain = spelling.rpartition("@")
    for part in (local, domain):
        runs = re.findall(f"{_PLAIN}+", part, re.IGNORECASE)
        if runs:
            yield max(runs, key=len)
