"""Search that stays fast among millions of messages.

Numbers, addresses (in any case), tags and Message-IDs of this app are found by index among all messages.  Subjects,
other Message-IDs, queue ids of servers and domains have no index: they are searched in the newest ``RECENT`` messages.
"""

from __future__ import annotations

import re
from functools import reduce
from operator import or_

from django.db import connections
from django.db.models import Max, Q, QuerySet

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.indexes import is_filled
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.domains import with_ascii_domain

#: Newest messages that a search without an index reads.
RECENT = 100_000
#: A shorter word is no queue id.
MIN_QUEUE_ID = 6
#: Up to so many messages of each kind are found one by one, by index.
LIMIT = 5_000

_OUTBOX_MESSAGE_ID = re.compile(r"outbox-(\d{1,18})-\d+@\S+", re.IGNORECASE)
#: What stands before and around an address or an identity where a person copies it.
_BEFORE = re.compile(r"(message-id:|mailto:|queued as|#)\s*", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"[^<>]*<([^<>]+@[^<>]+)>")
_ALL = Q()
_LAST = "\U0010ffff"

Messages = QuerySet[OutboxMessage]


def search(messages: Messages, term: str, *, newest_only: bool) -> tuple[Messages, bool]:
    """Return those of ``messages`` (which may be filtered already) that match ``term``, and whether older ones may too.

    Very many matches are not found by index one by one: ``newest_only`` looks for them among the newest messages, else
    the database reads all, which takes long.
    """
    term = _bare(term)
    if not term:
        return messages, False
    found = _found_by_index(messages, term)
    if found is not None:
        return messages.filter(pk__in=found), False
    if not newest_only:
        return messages.filter(reduce(or_, _conditions(term, _addressed(term)))), False
    among_newest = recent() & reduce(or_, _conditions(term, _addressed(term, recent(prefix="message_"))))
    return messages.filter(reduce(or_, _by_number(term), among_newest)), are_more_than_recent()


def _bare(term: str) -> str:
    """The term without what was copied with it: ``Bob <bob@example.org>``, ``Message-ID: <x@y>``, ``#4711``."""
    term = term.strip(" \t\r\n,;")
    if named := _BEFORE.match(term):
        term = term[named.end() :]
    enclosed = _IN_BRACKETS.fullmatch(term)
    return enclosed[1] if enclosed else term


def _found_by_index(messages: Messages, term: str) -> set[int] | None:
    """Return the keys of the matching messages; None where there are more than ``LIMIT``: some would look like all."""
    found: set[int] = set()
    recipients = Recipient.objects.filter(_address_matches(term)).order_by()
    addressed = recipients.values_list("message_id", flat=True)[: LIMIT + 1]
    if len(addressed) > LIMIT:
        return None
    # The keys are listed: with a subquery in their place MariaDB may look at every message.
    for condition in _conditions(term, Q(pk__in=set(addressed))):
        some = messages.filter(condition).order_by().values_list("pk", flat=True)[: LIMIT + 1]
        found.update(some)
        if len(some) > LIMIT:
            return None
    return found


def _conditions(term: str, addressed: Q) -> list[Q]:
    """Conditions one of which a message that matches the term meets; ``addressed``: a recipient's address matches."""
    own = _OUTBOX_MESSAGE_ID.fullmatch(term)
    if own:
        return [Q(pk=int(own[1]))]
    if "@" in term:
        return [addressed, *_by_message_id(f"<{term}>")]
    return [
        *_by_number(term),
        Q(tag=term),
        addressed,
        begins_with("tag", term) & is_filled("tag"),
        recent(subject__icontains=term),
        *_by_queue_id(term),
    ]


def _by_message_id(term: str) -> list[Q]:
    return [recent() & (Q(provider_message_id=term) | Q(fixed_message_id=term))]


def _by_queue_id(term: str) -> list[Q]:
    """Match the id that the server gave with its acceptance: “250 2.0.0 Ok: queued as 4F11A22B”."""
    is_id = len(term) >= MIN_QUEUE_ID and any(map(str.isdigit, term)) and " " not in term
    return [recent(provider_response__icontains=term)] if is_id else []


def _by_number(term: str) -> list[Q]:
    return [Q(pk=int(term))] if term.isascii() and term.isdecimal() and len(term) < 19 else []


def _addressed(term: str, among: Q = _ALL) -> Q:
    return Q(pk__in=Recipient.objects.filter(among, _address_matches(term)).values("message_id"))


def _address_matches(term: str) -> Q:
    """Match an address, the start of an address, or (from ``@``) the domain of newest ones, in any case."""
    if term.startswith("@"):
        return recent(prefix="message_", address__iendswith=_with_stored_domain(term))
    return _address_begins_with(term)


def _with_stored_domain(term: str) -> str:
    """The term with its domain in ASCII, if it has a whole one: so are addresses stored."""
    try:
        return with_ascii_domain(term) if "@" in term else term
    except ValueError:
        return term


def _address_begins_with(term: str) -> Q:
    """Match the column ``address_lower``.  SQLite's lower case leaves letters beyond ASCII as they are."""
    term = _with_stored_domain(term)
    lower, of_sqlite = term.lower(), term.encode("utf-8", "replace").lower().decode()
    starts = begins_with("address_lower", lower)
    return starts if of_sqlite == lower else starts | begins_with("address_lower", of_sqlite)


def begins_with(field: str, term: str) -> Q:
    """Match values that start with ``term``, in the form that this database answers from an index."""
    vendor = connections[outbox_alias()].vendor
    if vendor == "sqlite":
        return Q(**{f"{field}__gte": term, f"{field}__lt": term + _LAST})
    return Q(**{f"{field}__{'istartswith' if vendor == 'mysql' else 'startswith'}": term})


def recent(model: type[OutboxMessage | DeliveryAttempt] = OutboxMessage, *, prefix: str = "", **conditions: str) -> Q:
    """Match the newest ``RECENT`` rows of a table, for conditions that no index answers.

    ``prefix`` leads from the rows that are filtered to those of ``model``: ``message_``.
    """
    newest = model.objects.aggregate(newest=Max("pk"))["newest"] or 0
    return Q(**{f"{prefix}{'id' if prefix else 'pk'}__gt": newest - RECENT}, **conditions)


def are_more_than_recent() -> bool:
    """Whether there are messages beside the newest ones."""
    return OutboxMessage.objects.exclude(recent()).exists()


def recipients(rows: QuerySet[Recipient], term: str) -> QuerySet[Recipient]:
    """Return those of ``rows`` whose address starts with ``term``, in any case."""
    starts = _address_begins_with(_bare(term))
    # Without an order: PostgreSQL read the whole table backwards for the newest ones.
    found = list(rows.filter(starts).order_by().values_list("pk", flat=True)[: LIMIT + 1])
    return rows.filter(starts) if len(found) > LIMIT else rows.filter(pk__in=found)
