"""Why messages fail: those that need a person, grouped by account, code and text.

Two texts are the same reason if they differ only in numbers, addresses and host names.  The groups are made of the rows
as they are, so that what a person wrote to a row counts too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from django.db.models import Count, Max, Min, QuerySet

from prx_email_django.models import OutboxMessage
from prx_email_django.models.conditions import NEEDS_PERSON
from prx_email_django.rules.refusals import masked

#: Different texts that are read at most; beyond it the counts are shown as “at least”.
MAX_TEXTS = 50_000
#: Rows of one read.
CHUNK = 2_000
_ENHANCED = re.compile(r"\b[245]\.\d{1,3}\.\d{1,3}\b")
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class FailureGroup:
    """Messages of one account that need a person for one reason."""

    account_id: int
    account: str
    code: str
    #: The text without numbers and addresses: it names the group.
    folded: str
    count: int
    first: datetime
    last: datetime
    #: The newest message of the group, and its text.
    sample_id: int
    sample: str

    @property
    def enhanced_code(self) -> str:
        """The enhanced status code (RFC 3463) of the sample; empty if it has none."""
        found = _ENHANCED.search(self.sample)
        return found[0] if found else ""


def fold(text: str) -> str:
    """The text without what differs from message to message; the enhanced status code stays."""
    code = _ENHANCED.search(text)
    # Masking is slow, and most texts of a reason differ in a number only.
    return f"{code[0] if code else ''} {_masked_once(_NUMBER.sub('0', text))}".strip()


@lru_cache(maxsize=16_384)
def _masked_once(text: str) -> str:
    return masked(text)


def failure_groups(*, limit: int) -> tuple[list[FailureGroup], bool]:
    """Return the largest groups, and whether there were more different texts than are read."""
    rows = (
        OutboxMessage.objects.filter(NEEDS_PERSON)
        .order_by()
        .values_list("account_id", "account__name", "last_error_code", "last_error")
        .annotate(count=Count("pk"), first=Min("updated_at"), last=Max("updated_at"), sample=Max("pk"))
    )
    groups: dict[tuple[int, str, str], FailureGroup] = {}
    texts = 0
    for account_id, account, code, text, count, first, last, sample in rows[:MAX_TEXTS]:
        texts += 1
        key = (account_id, code, fold(text))
        group = groups.get(key)
        if group is None:
            groups[key] = FailureGroup(account_id, account, code, key[2], count, first, last, sample, text)
            continue
        group.count += count
        group.first, group.last = min(group.first, first), max(group.last, last)
        if sample > group.sample_id:
            group.sample_id, group.sample = sample, text
    largest = sorted(groups.values(), key=lambda group: (-group.count, group.account, group.folded))
    return largest[:limit], texts == MAX_TEXTS


def texts_of_group(rows: QuerySet[OutboxMessage], folded: str) -> list[str]:
    """Return the different texts of these rows that are of one group."""
    texts = rows.filter(NEEDS_PERSON).order_by().values_list("last_error", flat=True).distinct()
    return [text for text in texts.iterator() if fold(text) == folded]


def messages_of_group(account_id: int, code: str, folded: str, *, after: int = 0) -> Iterator[int]:
    """Yield the primary keys above ``after`` of all messages of one group, ascending, as the table is now."""
    rows = OutboxMessage.objects.filter(NEEDS_PERSON, account_id=account_id, last_error_code=code).order_by("pk")
    while chunk := list(rows.filter(pk__gt=after).values_list("pk", "last_error")[:CHUNK]):
        yield from (pk for pk, text in chunk if fold(text) == folded)
        after = chunk[-1][0]
