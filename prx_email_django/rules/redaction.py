"""What may be logged or shown of addresses and of what servers say."""

from __future__ import annotations

import re

#: Characters kept of any text.
MAX_TEXT = 160

#: Longer input is cut first, so that the search for addresses has a bound (a local part has at most 64 octets, RFC
#: 5321 §4.5.3.1.1; real ones are longer).
_MAX_INPUT = 4096
_CONTROLS = re.compile("[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_ADDRESS = re.compile(r"""("[^"@]{0,254}"|[^\s<>()\[\],;:@"]{1,254})@(\[[^\]\s]{1,64}\]|[^\s<>()\[\],;:@"']+)""")


def redact_address(address: str) -> str:
    """``ann@example.com`` → ``a***@example.com``; what has no ``@`` becomes ``***``."""
    local, at, domain = address.rpartition("@")
    first = local.lstrip('"')[:1]
    return f"{first}***@{domain}" if at else "***"


def redact(text: str) -> str:
    """The text on one line with every address in it redacted, cut at 160 characters."""
    text = _CONTROLS.sub(" ", text[:_MAX_INPUT]).strip()
    return _ADDRESS.sub(lambda match: redact_address(match[0]), text)[:MAX_TEXT]
