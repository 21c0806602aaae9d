"""History: one row for each delivery attempt, and the received messages that a reply refers to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, filterfalse, islice
from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

from prx_email_django.models.foreign_text import ForeignCharField, ForeignJSONField, ForeignTextField
from prx_email_django.models.managers import OutboxModel
from prx_email_django.states import AttemptOutcome, ErrorCode

if TYPE_CHECKING:
    from prx_email_django.models.message import OutboxMessage


class DeliveryAttempt(OutboxModel):
    """One attempt at one message: finished by its worker, or lost with it."""

    message = models.ForeignKey(
        "prx_email_django.OutboxMessage",
        models.CASCADE,
        related_name="delivery_attempts",
        db_index=False,
        verbose_name=_("message"),
    )
    # Without checks: PostgreSQL reads and plans each of them anew for every group of results.
    number = models.IntegerField(_("number"))
    header_message_id = models.CharField(_("Message-ID header"), max_length=998)
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"))
    outcome = models.CharField(_("outcome"), max_length=10, choices=AttemptOutcome.choices)
    error_code = models.CharField(_("error code"), max_length=30, choices=ErrorCode.choices, blank=True, default="")
    error = ForeignCharField(_("error"), max_length=255, blank=True, default="")
    phase = models.CharField(_("phase"), max_length=10, blank=True, default="")
    smtp_code = models.SmallIntegerField(_("SMTP code"), null=True, blank=True)
    enhanced_code = ForeignCharField(_("enhanced code"), max_length=15, blank=True, default="")
    peer = ForeignCharField(_("peer"), max_length=255, blank=True, default="")
    worker = ForeignCharField(_("worker"), max_length=255, blank=True, default="")
    #: The token of the claim: by it a late result finds the row of its attempt.
    claim_token = models.UUIDField(_("claim token"), null=True, blank=True)

    class Meta(OutboxModel.Meta):
        verbose_name = _("delivery attempt")
        verbose_name_plural = _("delivery attempts")
        ordering = ("message", "number")
        indexes = (models.Index(fields=("message", "number"), name="prx_attempt_message"),)

    def __str__(self) -> str:
        values = {"number": self.number, "message": self.message_id, "outcome": self.get_outcome_display()}
        return str(_("attempt %(number)s of message %(message)s: %(outcome)s") % values)


def next_numbers(message_ids: Sequence[int], *, skip: int = 0) -> dict[int, int]:
    """Message id -> number of its next ``DeliveryAttempt``: 1, 2, 3 … for each message.

    It is the smallest free one.  ``skip``: leave so many free ones to claims whose attempts are not recorded yet.
    """
    taken: dict[int, set[int]] = {pk: set() for pk in message_ids}
    rows = DeliveryAttempt.objects.filter(message_id__in=message_ids).order_by()
    for pk, number in rows.values_list("message_id", "number"):
        taken[pk].add(number)
    return {pk: next(islice(filterfalse(used.__contains__, count(1)), skip, None)) for pk, used in taken.items()}


def close_gaps(messages: models.QuerySet[OutboxMessage]) -> None:
    """Number the attempts of these messages 1, 2, 3 … where one number is missing; their rows are locked."""
    attempts = DeliveryAttempt.objects.filter(message_id__in=messages.values("pk")).order_by()
    highest = attempts.values("message_id").annotate(count=models.Count("pk"), highest=models.Max("number"))
    for pk in highest.filter(highest__gt=models.F("count")).values_list("message_id", flat=True):
        for number, attempt in enumerate(DeliveryAttempt.objects.filter(message_id=pk).order_by("number"), 1):
            DeliveryAttempt.objects.filter(pk=attempt.pk).update(number=number)


class InboundMessage(OutboxModel):
    """A message that was received, as far as a reply needs it."""

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="inbound_messages", verbose_name=_("account")
    )
    #: Empty: it has none that a reply could name.
    message_id = models.CharField(_("Message-ID"), max_length=998, blank=True)
    #: The id (else the header) is too long for an index everywhere, and text columns are case-blind in MariaDB.
    message_id_hash = models.CharField(_("hash of the Message-ID"), max_length=64)
    in_reply_to = models.CharField(_("In-Reply-To"), max_length=998, blank=True)
    # A space in the place of a character makes an address that is refused, not somebody else's.
    sender = ForeignCharField(_("sender"), max_length=998, blank=True, replacement=" ")
    reply_to = ForeignJSONField(_("Reply-To"), default=list, blank=True, replacement=" ")
    subject = ForeignTextField(_("subject"), blank=True)
    references = models.TextField(_("References"), blank=True)
    #: What could not be read of the message, in words for people.
    left_out = models.CharField(_("left out"), max_length=998, blank=True, default="")
    received_at = models.DateTimeField(_("received at"), db_index=True)

    class Meta(OutboxModel.Meta):
        verbose_name = _("inbound message")
        verbose_name_plural = _("inbound messages")
        constraints = (models.UniqueConstraint(fields=("account", "message_id_hash"), name="prx_inbound_message_id"),)

    def __str__(self) -> str:
        return self.subject or self.message_id
