"""A message that is nothing but recipient, subject, texts and sender: validated on a short path.

``compose.message`` has the rules.  A message that is unusual or wrong in any way is left to it; a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from prx_email_django.compose.accounts import account_default_from
from prx_email_django.compose.message import check_limits
from prx_email_django.compose.validation import addr_spec_of
from prx_email_django.mime.addresses import is_usual
from prx_email_django.mime.headers import MAX_HEADER
from prx_email_django.models import Account
from prx_email_django.rules.text import is_text
from prx_email_django.store.draft import Draft

#: The arguments of such a message.
_NAMES = frozenset({"account", "to", "subject", "body_text", "body_html", "from_email"})


def is_plain(given: Mapping[str, Any]) -> bool:
    """Whether ``plain_draft`` takes these arguments: valid, and short enough for a head of any bound."""
    to, subject, text, html = given.get("to"), given.get("subject"), given.get("body_text"), given.get("body_html", "")
    return (
        _NAMES.issuperset(given)
        and type(to) is type(subject) is type(text) is type(html) is str
        and type(given.get("from_email", "")) is str
        and subject.isascii()
        and subject.isprintable()
        and not subject.isspace()
        and 0 < len(subject) <= MAX_HEADER
        and not text.isspace()
        and text != ""
        and is_text(text)
        and is_text(html)
        and is_usual(to)
    )


def plain_draft(
    given: Mapping[str, Any], *, account: Account, now: datetime | None, largest: int, version: str
) -> Draft:
    """The draft of arguments that are plain, as ``compose`` would make it; columns that it leaves out have defaults.

    Raises:
        InvalidMessage: see ``compose``.
    """
    to = given["to"]
    from_email = given.get("from_email") or account_default_from(account)
    fields = {
        "to": [to],
        "from_email": from_email,
        "envelope_from": _sender(from_email)
        if type(from_email) is str
        else addr_spec_of(from_email, field="from_email"),
        "subject": given["subject"],
        "body_text": given["body_text"],
        "body_html": given.get("body_html", ""),
    }
    draft = Draft(account, now, fields, [("to", to)], version=version)
    check_limits(draft, largest=largest)
    return draft


@lru_cache(maxsize=64, typed=True)
def _sender(from_email: str) -> str:
    return addr_spec_of(from_email, field="from_email")
