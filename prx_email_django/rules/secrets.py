"""Removes secrets from texts that other people wrote: some servers echo what they were sent."""

from __future__ import annotations

import re
from os.path import commonprefix

#: Shorter secrets are no secrets: without them a text would show by its gaps what they are, and could not be read.
_LEAST = 3
#: Secrets shorter than this stand in ordinary words ("mail" in "gmail.com"): they are removed as whole words only.
_WORD = 5
#: Characters at the start of a secret by which a truncated copy of it is recognised.
_RECOGNISED = 8


def without_secret(text: str, secret: str) -> str:
    """Return the text with ``***`` for the secret; a secret of one or two characters stays."""
    if len(secret) < _LEAST:
        return text
    if len(secret) < _WORD:
        return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return without_copies(text, secret)


def without_copies(text: str, form: str, *, rest: re.Pattern[str] | None = None) -> str:
    """Return the text with ``***`` for each copy of ``form``, and for any beginning of it that has eight characters.

    A server may echo a line and truncate it.  ``rest``: what may follow the copy and is replaced with it.
    """
    beginning, start = form[:_RECOGNISED], 0
    while (start := text.find(beginning, start)) >= 0:
        end = start + len(commonprefix([text[start:], form]))
        if rest is not None and (more := rest.match(text, end)):
            end = more.end()
        text = text[:start] + "***" + text[end:]
        start += 3
    return text
