"""``OutboxMessage`` and its recipients.  No status is written here: ``store`` is its only writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import lru_cache
from typing import Any, cast

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.reader import in_date_zone
from prx_email_django.mime.headers import MAX_HEADER
from prx_email_django.mime.identity import message_id
from prx_email_django.mime.rendering import MailContent, render
from prx_email_django.mime.usual import usual_message
from prx_email_django.models.account import Account
from prx_email_django.models.compression import Lz4
from prx_email_django.models.conditions import SETTLED_CODES
from prx_email_django.models.content import Attachment, Content, read_content
from prx_email_django.models.foreign_text import ForeignCharField
from prx_email_django.models.indexes import NonEmptyIndex, PartialIndex, PartialUnique
from prx_email_django.models.managers import OutboxModel
from prx_email_django.rules.redirect import Route, named, route
from prx_email_django.rules.sent import message_id_number
from prx_email_django.states import WAITING, ErrorCode, RecipientResult
from prx_email_django.states import Status as MessageStatus

#: Writes the fields of a parsed message as they were sent.
AS_SENT = policy.SMTP.clone(refold_source="none")


class OnUnknown(models.TextChoices):
    """What follows an outcome that nobody knows (``rules.policy``).

    A message with ``hold`` is claimed only for a free connection, and never goes in a window with others.
    """

    SETTING = "", _("as the setting ON_UNKNOWN says")
    RETRY = "retry", _("try again (at least once)")
    HOLD = "hold", _("hold for a person (at most once)")


class OutboxMessage(OutboxModel):
    """One message in the outbox: its content, its state, and what the server said to it."""

    Status = MessageStatus

    # Claim and result write a new version of the row, with an entry in every index that has the row: so the account is
    # found by the index that lists its messages, and what most rows lack has a partial one.
    account = models.ForeignKey(
        Account, models.PROTECT, db_index=False, related_name="messages", verbose_name=_("account")
    )
    to = models.JSONField(_("to"), default=list)
    cc = models.JSONField(_("cc"), default=list, blank=True)
    bcc = models.JSONField(_("bcc"), default=list, blank=True)
    reply_to = models.JSONField(_("reply to"), default=list, blank=True)
    from_email = models.CharField(_("from"), max_length=998, blank=True)
    envelope_from = models.CharField(_("envelope sender"), max_length=320, blank=True)
    subject = models.TextField(_("subject"), blank=True)
    body_text = models.TextField(_("text body"), blank=True)
    body_html = models.TextField(_("HTML body"), blank=True)
    headers = models.JSONField(_("headers"), default=dict, blank=True)
    in_reply_to_message_id = models.CharField(_("In-Reply-To"), max_length=998, blank=True)
    references = models.TextField(_("References"), blank=True)
    #: A message that the caller has rendered (email backend): only a missing Message-ID and Date are added.
    raw = models.ForeignKey(
        Content,
        models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="messages",
        verbose_name=_("rendered message"),
    )
    #: A Message-ID that the caller chose; every attempt has it.
    fixed_message_id = models.CharField(_("Message-ID of the caller"), max_length=998, blank=True)
    #: Bytes of bodies and attachments together.
    size = models.BigIntegerField(_("size"), default=0)

    status = models.CharField(_("status"), max_length=10, choices=MessageStatus.choices, default=MessageStatus.PENDING)
    claim_token = models.UUIDField(_("claim token"), null=True, blank=True, editable=False)
    claim_expires_at = models.DateTimeField(_("claim expires at"), null=True, blank=True)
    retries = models.IntegerField(_("retries"), default=0)
    attempts = models.IntegerField(_("attempts"), default=0)
    message_number = models.IntegerField(_("number in the Message-ID"), null=True, blank=True)
    last_error = ForeignCharField(_("last error"), max_length=255, blank=True, default="")
    last_error_code = models.CharField(
        _("last error code"), max_length=30, choices=ErrorCode.choices, blank=True, default=""
    )
    next_attempt_at = models.DateTimeField(_("next attempt at"), null=True, blank=True)
    #: When a person took the message at rest off the list of those that need a person; a new attempt clears it.
    dismissed_at = models.DateTimeField(_("dismissed at"), null=True, blank=True)
    #: When a person said that the message arrived.
    confirmed_at = models.DateTimeField(_("confirmed at"), null=True, blank=True)
    due_since = models.DateTimeField(_("due since"), default=timezone.now)
    provider_message_id = models.CharField(_("accepted Message-ID"), max_length=998, null=True, blank=True)  # noqa: DJ001
    provider_response = ForeignCharField(_("server's response"), max_length=255, blank=True, default="")
    priority = models.SmallIntegerField(
        _("priority"), default=0, validators=[MinValueValidator(-10), MaxValueValidator(10)]
    )
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    idempotency_key = models.CharField(_("idempotency key"), max_length=255, null=True, blank=True)  # noqa: DJ001
    idempotency_hash = models.CharField(max_length=64, null=True, blank=True, editable=False)  # noqa: DJ001
    on_unknown = models.CharField(
        _("on unknown outcome"), max_length=10, choices=OnUnknown.choices, blank=True, default=""
    )
    tag = models.CharField(_("tag"), max_length=100, blank=True, default="")
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    #: The content is removed as soon as the message is sent (``store.sensitive``).
    is_sensitive = models.BooleanField(_("sensitive"), default=False)
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"), default=timezone.now, db_index=True)
    updated_at = models.DateTimeField(_("updated at"), default=timezone.now)
    #: Order of claiming, lowest first.  NULL outside the queue, so that a claim never reads the rows of sent messages.
    claim_rank = models.GeneratedField(
        expression=Case(
            When(next_attempt_at__isnull=True, then=None),
            default=Value(0) - F("priority"),
            output_field=models.SmallIntegerField(),
        ),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )

    class Meta(OutboxModel.Meta):
        verbose_name = _("outbox message")
        verbose_name_plural = _("outbox messages")
        ordering = ("-id",)
        # A reset link in a body is as good as a password, and whoever is on duty must see states and server replies.
        permissions = (("view_message_content", _("Can view texts, source and files of messages")),)
        indexes = (
            # The newest messages of an account, however many newer ones other accounts have.
            models.Index(fields=("account", "id"), name="prx_message_account"),
            # For a tag, and for how a tag begins: PostgreSQL needs the operator class for that, and finds both by it.
            NonEmptyIndex(fields=("tag",), name="prx_message_tag", opclasses=("varchar_pattern_ops",)),
            PartialIndex(fields=("raw",), name="prx_message_raw", where=Q(raw__isnull=False)),
            PartialIndex(
                fields=("account", "claim_rank", "next_attempt_at", "id"),
                name="prx_message_claim",
                where=Q(next_attempt_at__isnull=False),
            ),
            PartialIndex(
                fields=("claim_expires_at",), name="prx_message_lease", where=Q(claim_expires_at__isnull=False)
            ),
            PartialIndex(
                fields=("status", "last_error_code", "dismissed_at", "id"),
                name="prx_message_failed",
                where=Q(status="failed"),
            ),
        )
        constraints = (
            # PostgreSQL reads and plans each constraint anew for each statement: this is the shortest that says it.
            models.CheckConstraint(
                condition=Q(status="pending")
                | Q(status="failed")
                | Q(status="sending", claim_token__isnull=False, claim_expires_at__isnull=False)
                | Q(status="sent", sent_at__isnull=False, next_attempt_at__isnull=True),
                name="prx_message_status",
            ),
            models.CheckConstraint(condition=Q(priority__gte=-10, priority__lte=10), name="prx_message_priority"),
            PartialUnique(fields=("account", "idempotency_hash"), name="prx_message_idempotency"),
            Lz4(fields=("body_text", "body_html"), name="prx_message_lz4"),
        )

    def __str__(self) -> str:
        return f"{self.pk}: {self.subject}"

    @property
    def message_id(self) -> str:
        """The Message-ID of the next attempt; after the first acceptance, of the accepted copy."""
        if self.provider_message_id:
            return self.provider_message_id
        if self.fixed_message_id:
            return self.fixed_message_id
        number = message_id_number(self.message_number, self.retries)
        return message_id(self.id, number, outbox_settings().domain_of_message_ids())

    @property
    def refused_recipients(self) -> dict[str, dict[str, Any]]:
        """Addresses that the server refused for good: address -> ``code`` and ``text``."""
        return {
            recipient.address: {"code": recipient.code, "text": recipient.text}
            for recipient in self.recipients.all()
            if recipient.result == RecipientResult.REFUSED
        }

    @property
    def is_waiting(self) -> bool:
        """Whether the message waits for an attempt, due now or later."""
        return self.status in WAITING and self.next_attempt_at is not None

    def claim_has_run_out(self, now: datetime) -> bool:
        """Whether the message is being sent under a claim that nobody has renewed: its worker was lost."""
        lease = self.claim_expires_at
        return self.status == MessageStatus.SENDING and lease is not None and lease <= now

    @property
    def is_at_rest(self) -> bool:
        """Whether the message is failed and never due by itself."""
        return self.status == MessageStatus.FAILED and self.next_attempt_at is None

    @property
    def needs_person(self) -> bool:
        """Whether the message is at rest, and no person has cancelled, adopted or dismissed it."""
        return self.is_at_rest and self.dismissed_at is None and self.last_error_code not in SETTLED_CODES

    @property
    def is_confirmed(self) -> bool:
        """Whether the message is sent by the word of a person, and not by the reply of a server since."""
        return self.confirmed_at is not None and self.confirmed_at == self.sent_at

    @property
    def may_have_been_delivered(self) -> bool:
        """Whether an attempt ended in a way that nobody knows, and the message is not known to be sent."""
        return self.status != MessageStatus.SENT and self.attempts > self.retries

    def mail_content(
        self,
        *,
        attachments: Iterable[Attachment] | None = None,
        replaced: Iterable[str] = (),
        message_id: str | None = None,
    ) -> MailContent:
        """The content of the message, for ``mime``; ``replaced`` are recipients that ``X-Original-To`` names.

        ``message_id`` is the Message-ID of an attempt that has begun; None: that of the next attempt.

        Raises:
            ContentAltered: an attachment is missing or altered.
        """
        raw = self.raw if self.raw_id is not None else None  # the related object of an empty column costs as much
        headers = tuple([(name, str(value)) for name, value in header_pairs(self.headers)]) if self.headers else ()
        if addresses := tuple(replaced):
            headers += (("X-Original-To", named(addresses, limit=MAX_HEADER)),)
        files = self.attachments.all() if attachments is None else attachments
        return MailContent(
            from_email=self.from_email,
            to=tuple(self.to),
            cc=tuple(self.cc),
            reply_to=tuple(self.reply_to),
            subject=self.subject,
            message_id=self.message_id if message_id is None else message_id,
            date=in_date_zone(self.due_since),
            body_text=self.body_text,
            body_html=self.body_html,
            headers=headers,
            in_reply_to=self.in_reply_to_message_id,
            references=self.references,
            parts=tuple([part.mail_part() for part in files]),
            raw=None if raw is None else read_content(raw.pk, raw.sha256),
        )

    def as_bytes(self, *, replaced: Iterable[str] = ()) -> bytes:
        """The rendered message after ``TRANSFORM_MIME``; ``replaced`` as for ``mail_content``.

        Raises:
            ContentAltered: an attachment is missing or altered.
            ValueError: the message cannot be rendered.
        """
        return self.transformed(self.rendered(replaced=replaced))

    def rendered(
        self,
        *,
        attachments: Iterable[Attachment] | None = None,
        replaced: Iterable[str] = (),
        message_id: str | None = None,
    ) -> bytes:
        """The message before ``TRANSFORM_MIME``; arguments as for ``mail_content``, exceptions as for ``as_bytes``."""
        return render(self.mail_content(attachments=attachments, replaced=replaced, message_id=message_id))

    def usual_bytes(self, message_id: str) -> bytes | None:
        """What ``rendered`` gives for a usual message (``mime.usual``), all ASCII; None: it needs ``rendered``.

        Only for a message that is not ``raw`` and has no attachments, and where the settings change no message.

        Raises:
            ValueError: the message cannot be rendered.
        """
        if self.headers or self.cc or self.reply_to or self.in_reply_to_message_id or self.references:
            return None
        return usual_message(
            self.from_email, self.to, self.subject, message_id, self.due_since, self.body_text, self.body_html
        )

    def transformed(self, rendered: bytes) -> bytes:
        """What ``TRANSFORM_MIME`` makes of it; raises what the host's function raises."""
        transform = outbox_settings().transform_mime
        return cast(bytes, _imported(transform)(rendered, self)) if transform else rendered

    def as_sent(self) -> bytes:
        """The bytes of a message to all its recipients, ``REDIRECT_TO`` applied; raises as ``as_bytes``."""
        addresses = self.recipients.values_list("address", flat=True)
        return self.as_bytes(replaced=envelope_route(addresses).replaced)

    def as_email(self) -> EmailMessage:
        """The message as it is sent, parsed; raises as ``as_bytes``.  Its ``as_bytes()`` folds no header anew."""
        return message_from_bytes(self.as_sent(), policy=AS_SENT)


def envelope_route(addresses: Iterable[str]) -> Route:
    """The envelope for these recipients, after ``REDIRECT_TO``."""
    settings = outbox_settings()
    return route(tuple(addresses), redirect_to=settings.redirect_to, passing=settings.redirect_except)


def header_pairs(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Stored headers as pairs; they are stored as a mapping, or as a list of pairs where a name is repeated."""
    if isinstance(headers, Mapping):
        return list(headers.items())
    return [(name, value) for name, value in headers]


@lru_cache(maxsize=8)
def _imported(path: str) -> Any:
    return import_string(path)


class Recipient(OutboxModel):
    """One envelope address of one message, and the server's answer to it."""

    class Kind(models.TextChoices):
        """The header field that names the address."""

        TO = "to", _("to")
        CC = "cc", _("cc")
        BCC = "bcc", _("bcc")

    message = models.ForeignKey(OutboxMessage, models.CASCADE, related_name="recipients", verbose_name=_("message"))
    kind = models.CharField(_("kind"), max_length=5, choices=Kind.choices, default=Kind.TO)
    address = models.CharField(_("address"), max_length=320)
    #: People search for an address in any case.
    address_lower = models.GeneratedField(
        expression=Lower("address"), output_field=models.CharField(max_length=320), db_persist=True
    )
    result = models.CharField(_("result"), max_length=10, choices=RecipientResult.choices, blank=True, default="")
    code = models.SmallIntegerField(_("code"), null=True, blank=True)
    text = ForeignCharField(_("text"), max_length=255, blank=True, default="")

    class Meta(OutboxModel.Meta):
        verbose_name = _("recipient")
        verbose_name_plural = _("recipients")
        ordering = ("message", "id")
        indexes = (
            models.Index(fields=("address",), name="prx_recipient_address"),
            # For an address in any case, and for how it begins: PostgreSQL needs the operator class for that.
            models.Index(fields=("address_lower",), name="prx_recipient_lower", opclasses=("varchar_pattern_ops",)),
        )

    def __str__(self) -> str:
        return self.address
