"""References to secrets that are kept outside the database: ``env:NAME`` and ``file:/path``.

A text that begins with ``\\env:`` or ``\\file:`` is no reference: it means the text without the first backslash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prx_email_django.rules.words import words as _

_REFERENCE = re.compile(r"(env|file):(.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\+(?:env|file):")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is kept: ``kind`` is ``env`` or ``file``, ``target`` a variable's name or an absolute path."""

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"

    @property
    def problem(self) -> str:
        """Why it can name nothing; empty if it can."""
        if not self.target.isprintable() or self.target != self.target.strip() or not self.target:
            return _("names nothing: write env:NAME or file:/path")
        if self.kind == "env" and "=" in self.target:
            return _("is not the name of a variable")
        if self.kind == "file" and not self.target.startswith("/"):
            return _("must name an absolute path: workers may start in different directories")
        return ""


def reference(text: str) -> Reference | None:
    """The reference that the text is; None: it is the secret itself."""
    found = _REFERENCE.fullmatch(text)
    return Reference(*found.groups()) if found else None


def literal(text: str) -> str:
    """The secret that a text which is no reference means."""
    return text[1:] if _ESCAPED.match(text) else text
