"""Message-IDs, and the fields that connect a reply with its parent (RFC 5322 §3.6.4)."""

from __future__ import annotations

import re

#: Ids in one References field; of a longer thread the oldest are left out, except the first (RFC 5537 §3.4.4).
MAX_REFERENCES = 100

_MESSAGE_ID = re.compile(r"<[^<>\s]+>")
_RE = re.compile(r"re:", re.IGNORECASE)


def message_id(outbox_id: int, number: int, domain: str) -> str:
    """The Message-ID of a message's attempts under ``number``, with angle brackets."""
    return f"<outbox-{outbox_id}-{number}@{domain}>"


def reply_subject(subject: str) -> str:
    """The subject of a reply: ``Re: `` in front, unless the subject begins with it in any case."""
    return subject if _RE.match(subject.lstrip()) else f"Re: {subject}"


def reply_references(parent_references: str, parent_in_reply_to: str, parent_message_id: str) -> str:
    """References of a reply: the parent's References, else its In-Reply-To, then the parent's Message-ID.

    An In-Reply-To of several ids is not used (RFC 5322 §3.6.4).  Each id is named once.
    """
    chain = _MESSAGE_ID.findall(parent_references)
    if not chain and len(single := _MESSAGE_ID.findall(parent_in_reply_to)) == 1:
        chain = single
    chain = [reference for reference in dict.fromkeys(chain) if reference != parent_message_id]
    if len(chain) >= MAX_REFERENCES:
        chain = [chain[0], *chain[2 - MAX_REFERENCES :]]
    return " ".join((*chain, parent_message_id)).strip()
