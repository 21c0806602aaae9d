"""Writes content: one copy per octets and day, in chunks, in the caller's transaction."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from prx_email_django.clock import Clock
from prx_email_django.models import Content, ContentChunk
from prx_email_django.models.content import CHUNK_SIZE

#: A copy is reused for a day; ``purge`` deletes unreferenced ones after two, so none vanishes under a new reference.
REUSED_FOR = timedelta(hours=24)
KEPT_FOR = timedelta(hours=48)


def store_content(octets: bytes, *, clock: Clock) -> Content:
    """The stored content with these octets: a copy of the last 24 hours, or a new one."""
    sha256 = hashlib.sha256(octets).hexdigest()
    now = clock.running
    recent = Content.objects.filter(sha256=sha256, size=len(octets), stored_at__gt=now - REUSED_FOR)
    known = recent.order_by("-stored_at").first()
    if known is not None:
        return known
    content = Content.objects.create(sha256=sha256, size=len(octets), stored_at=now)
    ContentChunk.objects.bulk_create(
        [
            ContentChunk(content=content, position=number, data=octets[start : start + CHUNK_SIZE])
            for number, start in enumerate(range(0, len(octets), CHUNK_SIZE))
        ],
        batch_size=8,
    )
    return content
