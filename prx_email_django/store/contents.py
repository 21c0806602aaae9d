"""Writes content: one copy per content and day, in chunks, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.db import connections

from prx_email_django.models import Content, ContentChunk
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock

#: A copy is reused for a day; ``purge`` deletes unreferenced ones after two, so none vanishes under a new reference.
REUSED_FOR = timedelta(hours=24)
KEPT_FOR = timedelta(hours=48)


def store_contents(many: Sequence[bytes], *, clock: Clock) -> list[Content]:
    """The stored rows of these contents, in order; three statements for any number of them."""
    if not many:
        return []
    now = clock.running
    # By the real time too: a purge does not know of the caller's old ``now``, and would take what this one refers to.
    since = max(now, datetime.now(UTC)) - REUSED_FOR
    keys = [hashlib.sha256(data).hexdigest() for data in many]
    recent = Content.objects.filter(sha256__in=set(keys), stored_at__gt=since).order_by("stored_at")
    known = {content.sha256: content for content in recent}
    missing = {key: data for key, data in zip(keys, many, strict=True) if key not in known}
    new = [Content(sha256=key, size=len(data), stored_at=now) for key, data in missing.items()]
    for content in _inserted(new):
        known[content.sha256] = content
    # An escaped byte takes two in a statement, and MariaDB refuses statements beyond 16 MiB by default.
    ContentChunk.objects.bulk_create(_chunks(missing, known), batch_size=4)
    return [known[key] for key in keys]


def _inserted(new: list[Content]) -> list[Content]:
    if connections[outbox_alias()].features.can_return_rows_from_bulk_insert:
        return Content.objects.bulk_create(new, batch_size=500)
    for content in new:  # MySQL gives no keys back
        content.save(force_insert=True)
    return new


def _chunks(missing: Mapping[str, bytes], known: Mapping[str, Content]) -> Iterator[ContentChunk]:
    for key, data in missing.items():
        for number, start in enumerate(range(0, len(data), CHUNK_SIZE)):
            yield ContentChunk(content=known[key], position=number, data=data[start : start + CHUNK_SIZE])
