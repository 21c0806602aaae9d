"""Attachments and rendered messages, in the same database as the messages that need them."""

from __future__ import annotations

import hashlib
import io

from django.db import models
from django.utils.translation import gettext_lazy as _

from prx_email_django.mime.bodies import MailPart
from prx_email_django.models.compression import Lz4
from prx_email_django.models.managers import OutboxModel

#: Bytes of a chunk: well below every database's packet limit.
CHUNK_SIZE = 1024 * 1024


class ContentAltered(Exception):
    """Stored bytes are missing, or their SHA-256 is not the stored one any more."""


class Content(OutboxModel):
    """A sequence of bytes, found by its SHA-256.

    The hash is indexed, not unique: with a unique hash a second caller would wait for the transaction of the first, and
    two callers with the same two files in opposite order would deadlock.
    """

    sha256 = models.CharField(_("SHA-256"), max_length=64, db_index=True)
    size = models.BigIntegerField(_("size"))
    stored_at = models.DateTimeField(_("stored at"), db_index=True)
    #: Belongs to one sensitive message, and is deleted when that is sent.
    is_private = models.BooleanField(_("belongs to one message"), default=False)

    class Meta(OutboxModel.Meta):
        verbose_name = _("content")
        verbose_name_plural = _("contents")

    def __str__(self) -> str:
        return f"{self.sha256[:12]} ({self.size} bytes)"


class ContentChunk(OutboxModel):
    """At most ``CHUNK_SIZE`` bytes of a content."""

    content = models.ForeignKey(Content, models.CASCADE, related_name="chunks", db_index=False)
    position = models.PositiveIntegerField(_("position"))
    data = models.BinaryField(_("data"))

    class Meta(OutboxModel.Meta):
        verbose_name = _("content chunk")
        verbose_name_plural = _("content chunks")
        constraints = (
            models.UniqueConstraint(fields=("content", "position"), name="prx_chunk_position"),
            Lz4(fields=("data",), name="prx_chunk_lz4"),
        )

    def __str__(self) -> str:
        return f"chunk {self.position} of content {self.content_id}"


def read_content(content_id: int | None, sha256: str = "") -> bytes:
    """The stored bytes, checked against ``sha256`` where it is given.

    Raises:
        ContentAltered: the bytes are missing or altered.
    """
    if content_id is None:
        raise ContentAltered("the content has been removed")
    chunks = ContentChunk.objects.filter(content_id=content_id).order_by("position")
    content = b"".join(bytes(data) for data in chunks.values_list("data", flat=True))
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ContentAltered("the stored content is missing or altered")
    return content


class Attachment(OutboxModel):
    """A file of a message, an inline image, or an alternative body; its bytes are a ``Content``."""

    class Kind(models.TextChoices):
        """What the part is in its message."""

        ATTACHMENT = "attachment", _("attachment")
        INLINE = "inline", _("inline image")
        ALTERNATIVE = "alternative", _("alternative body")

    message = models.ForeignKey(
        "prx_email_django.OutboxMessage", models.CASCADE, related_name="attachments", verbose_name=_("message")
    )
    kind = models.CharField(_("kind"), max_length=15, choices=Kind.choices, default=Kind.ATTACHMENT)
    position = models.PositiveIntegerField(_("position"), default=0)
    filename = models.CharField(_("file name"), max_length=255, blank=True)
    content_type = models.CharField(_("content type"), max_length=255)
    size = models.BigIntegerField(_("size"))
    sha256 = models.CharField(_("SHA-256"), max_length=64)
    inline_id = models.CharField(_("inline id"), max_length=255, blank=True)
    content = models.ForeignKey(
        Content, models.PROTECT, null=True, blank=True, related_name="attachments", verbose_name=_("content")
    )

    class Meta(OutboxModel.Meta):
        verbose_name = _("attachment")
        verbose_name_plural = _("attachments")
        ordering = ("message", "position")

    def __str__(self) -> str:
        return self.filename or self.content_type

    def open(self) -> io.BytesIO:
        """The bytes as a binary file.

        Raises:
            ContentAltered: the bytes are missing or altered.
        """
        return io.BytesIO(read_content(self.content_id, self.sha256))

    def mail_part(self) -> MailPart:
        """The attachment as a part of ``MailContent``.

        Raises:
            ContentAltered: the bytes are missing or altered.
        """
        return MailPart(
            kind=self.kind,
            filename=self.filename,
            content_type=self.content_type,
            content=read_content(self.content_id, self.sha256),
            inline_id=self.inline_id,
        )
