"""Message-IDs and what ties a reply to its parent (RFC 5322 §3.6.4)."""

from __future__ import annotations

import re

#: A thread's ids in one References field; beyond it the oldest but the first are left out (RFC 5537 §3.4.4).
MAX_REFERENCES = 100

_MESSAGE_ID = re.compile(r"<[^<>\s]+>")
_RE = re.compile(r"re:", re.IGNORECASE)


def message_id(outbox_id: int, number: int, domain: str) -> str:
    """The Message-ID of a message's attempts under one number, angle brackets included."""
    return f"<outbox-{outbox_id}-{number}@{domain}>"


def reply_subject(subject: str) -> str:
    """The subject of a reply: ``Re: `` in front, unless it is there already, in whatever case."""
    return subject if _RE.match(subject.lstrip()) else f"Re: {subject}"


def reply_references(parent_references: str, parent_in_reply_to: str, parent_message_id: str) -> str:
    """References of a reply: the parent's References, else its one In-Reply-To, then the parent's Message-ID.

    An In-Reply-To of several ids is not used (RFC 5322 §3.6.4); each id stands once.
    """
    chain = _MESSAGE_ID.findall(parent_references)
    if not chain and len(single := _MESSAGE_ID.findall(parent_in_reply_to)) == 1:
        chain = single
    chain = [one for one in dict.fromkeys(chain) if one != parent_message_id]
    if len(chain) >= MAX_REFERENCES:
        chain = [chain[0], *chain[2 - MAX_REFERENCES :]]
    return " ".join((*chain, parent_message_id)).strip()
