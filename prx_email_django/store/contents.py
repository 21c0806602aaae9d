"""Writes content: one copy per content and day, in chunks, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from django.db import connections

from prx_email_django.models import Content, ContentChunk
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock

#: A copy is reused for a day; ``purge`` deletes unreferenced ones after two, so none vanishes under a new reference.
REUSED_FOR = timedelta(hours=24)
KEPT_FOR = timedelta(hours=48)

#: The SHA-256 of a content, and its position where it is private.
Key: TypeAlias = tuple[str, int]


def store_contents(many: Sequence[bytes], *, clock: Clock, private: Collection[int] = ()) -> list[Content]:
    """The stored rows of these contents, in order; three statements for any number of them.

    ``private``: positions of those that get a row of their own, which nobody else will refer to.
    """
    if not many:
        return []
    now = clock.running
    # By the real time too: a purge does not know of the caller's old ``now``, and would take what this one refers to.
    since = max(now, datetime.now(UTC)) - REUSED_FOR
    # What is private has its position in its key, so that it meets no other.
    keys = [(hashlib.sha256(data).hexdigest(), place if place in private else -1) for place, data in enumerate(many)]
    shared = {digest for digest, place in keys if place < 0}
    recent = Content.objects.filter(sha256__in=shared, stored_at__gt=since, is_private=False).order_by("stored_at")
    known = {(content.sha256, -1): content for content in recent} if shared else {}
    missing = {key: data for key, data in zip(keys, many, strict=True) if key not in known}
    new = [
        Content(sha256=digest, size=len(missing[digest, place]), stored_at=now, is_private=place >= 0)
        for digest, place in missing
    ]
    for key, content in zip(missing, _inserted(new), strict=True):
        known[key] = content
    # An escaped byte takes two in a statement, and MariaDB refuses statements beyond 16 MiB by default.
    ContentChunk.objects.bulk_create(_chunks(missing, known), batch_size=4)
    return [known[key] for key in keys]


def _inserted(new: list[Content]) -> list[Content]:
    if connections[outbox_alias()].features.can_return_rows_from_bulk_insert:
        return Content.objects.bulk_create(new, batch_size=500)
    for content in new:  # MySQL gives no keys back
        content.save(force_insert=True)
    return new


def _chunks(missing: Mapping[Key, bytes], known: Mapping[Key, Content]) -> Iterator[ContentChunk]:
    for key, data in missing.items():
        for number, start in enumerate(range(0, len(data), CHUNK_SIZE)):
            yield ContentChunk(content=known[key], position=number, data=data[start : start + CHUNK_SIZE])
