"""Runtime state: what workers find out about an account, in rows apart from what a person configured.

In MariaDB an uncommitted ``enqueue`` holds a shared lock on its account's row (through the foreign key).  A pause
written to that row would wait for the caller's transaction, and every other ``enqueue`` would wait behind the pause.
"""

from __future__ import annotations

from typing import ClassVar, Self

from django.db import models
from django.utils.translation import gettext_lazy as _

from prx_email_django.models.encrypted import EncryptedTextField
from prx_email_django.models.managers import OutboxManager


class PausedBy(models.TextChoices):
    """Who set a pause.

    A worker's pause ends by itself or by a success; a person's pause ends only by a person or at its date.
    """

    NOBODY = "", _("nobody")
    WORKER = "worker", _("a worker")
    PERSON = "person", _("a person")


class AccountStateManager(OutboxManager["AccountState"]):
    """Queries over the runtime state of accounts."""

    def forget_credentials(self, account_id: int) -> None:
        """Clear tokens, failures and a worker's pause: they belong to credentials that a person has changed."""
        rows = self.filter(account_id=account_id)
        rows.update(
            access_token="",
            access_token_expires_at=None,
            refresh_token="",
            refresh_lease=None,
            refresh_lease_expires_at=None,
            connection_failures=0,
            envelope_until=None,
            size_limit=0,
            refused_in_a_row=0,
            forgiven_refusals={},
            slow_until=None,
            slow_seconds=0,
        )
        RefusedMessage.objects.filter(account_id=account_id).delete()
        rows.filter(paused_by=PausedBy.WORKER).update(
            paused_by="", pause_reason="", pause_code="", paused_until=None, paused_at=None, pause_count=0
        )


class AccountState(models.Model):
    """The runtime state of one account: its pause, its tokens, and what is known of its server."""

    account = models.OneToOneField(
        "prx_email_django.Account",
        models.CASCADE,
        primary_key=True,
        related_name="runtime_state",
        verbose_name=_("account"),
    )
    paused_by = models.CharField(_("paused by"), max_length=10, choices=PausedBy.choices, blank=True, default="")
    paused_at = models.DateTimeField(_("paused at"), null=True, blank=True)
    paused_until = models.DateTimeField(_("paused until"), null=True, blank=True)
    pause_reason = models.CharField(_("pause reason"), max_length=255, blank=True, default="")
    pause_code = models.CharField(_("pause code"), max_length=30, blank=True, default="")
    #: Pauses in a row without a success between; each makes the next pause longer.
    pause_count = models.PositiveIntegerField(_("pauses in a row"), default=0)
    #: Connections that failed in a row without a completed transaction between.
    connection_failures = models.PositiveIntegerField(_("connection failures"), default=0)
    access_token = EncryptedTextField(_("access token"), blank=True, default="")
    access_token_expires_at = models.DateTimeField(_("access token expires at"), null=True, blank=True)
    #: The last refresh token of a provider that rotates them; empty: the account's own is in use.
    refresh_token = EncryptedTextField(_("refresh token"), blank=True, default="")
    refresh_lease = models.UUIDField(_("refresh lease"), null=True, blank=True)
    refresh_lease_expires_at = models.DateTimeField(_("refresh lease expires at"), null=True, blank=True)
    #: Until then only envelopes are pipelined: a connection with an overlapped write was lost.
    envelope_until = models.DateTimeField(_("envelope pipelining until"), null=True, blank=True)
    #: The SIZE that the server announced last, in bytes; 0: none.
    size_limit = models.BigIntegerField(_("size limit"), default=0)
    #: Messages refused one after another, none accepted between; refusals that speak of a recipient are not counted.
    refused_in_a_row = models.PositiveIntegerField(_("refused in a row"), default=0)
    #: Key of a refusal -> until when it raises no suspicion (ISO 8601): it was the messages, not the account.
    forgiven_refusals = models.JSONField(_("forgiven refusals"), default=dict, blank=True)
    #: Until then nothing is sent: the server said that it was too fast.
    slow_until = models.DateTimeField(_("slowed down until"), null=True, blank=True)
    #: The length of the last such wait; the next one is twice as long.  0: a message was accepted since.
    slow_seconds = models.PositiveSmallIntegerField(_("last wait in seconds"), default=0)

    objects = AccountStateManager()

    class Meta:
        verbose_name = _("account state")
        verbose_name_plural = _("account states")
        base_manager_name = "objects"

    def __str__(self) -> str:
        return f"state of account {self.account_id}"


class RefusedMessage(models.Model):
    """One message of the present row of refusals, and its columns of before, to which it returns if it was the account.

    All rows of the account are deleted when a message is accepted.
    """

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="refused", verbose_name=_("account")
    )
    message = models.ForeignKey(
        "prx_email_django.OutboxMessage", models.CASCADE, related_name="+", verbose_name=_("message")
    )
    #: The same for refusals in the same words (``rules.refusals``).
    key = models.CharField(_("kind of refusal"), max_length=64)
    #: Domains of the refused recipients, where only many of them count.
    domains = models.JSONField(_("domains"), default=list, blank=True)
    is_bare = models.BooleanField(_("only many domains count"), default=False)
    retries = models.PositiveIntegerField(_("retries before"), default=0)
    attempts = models.PositiveIntegerField(_("attempts before"), default=0)
    next_attempt_at = models.DateTimeField(_("due before"), null=True, blank=True)
    #: Primary keys of the recipients that this refusal refused.
    recipients = models.JSONField(_("recipients refused"), default=list, blank=True)
    #: The message is as it was before the refusal; the row stays as an example of what is refused.
    is_reinstated = models.BooleanField(_("reinstated"), default=False)
    refused_at = models.DateTimeField(_("refused at"))

    objects: ClassVar[OutboxManager[Self]] = OutboxManager()

    class Meta:
        verbose_name = _("refused message")
        verbose_name_plural = _("refused messages")
        base_manager_name = "objects"

    def __str__(self) -> str:
        return f"refusal of message {self.message_id}"


class ConnectionSlot(models.Model):
    """The leased right to one connection; an account has ``max_connections`` slots over all machines."""

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="slots", verbose_name=_("account")
    )
    number = models.PositiveSmallIntegerField(_("number"))
    token = models.UUIDField(_("token"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    holder = models.CharField(_("holder"), max_length=255, blank=True, default="")

    objects: ClassVar[OutboxManager[Self]] = OutboxManager()

    class Meta:
        verbose_name = _("connection slot")
        verbose_name_plural = _("connection slots")
        base_manager_name = "objects"
        constraints = (models.UniqueConstraint(fields=("account", "number"), name="prx_slot_number"),)

    def __str__(self) -> str:
        return f"slot {self.number} of account {self.account_id}"


class RateWindow(models.Model):
    """The permits spent of one rate limit: twenty-one buckets, each a twentieth of the limit's period."""

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="rate_windows", verbose_name=_("account")
    )
    #: ``messages/60`` or ``recipients/86400``: what is counted, and the period in seconds.
    limit_key = models.CharField(_("limit"), max_length=40)
    #: Number of the newest bucket, counted from the epoch.
    bucket = models.BigIntegerField(_("bucket"), default=0)
    #: Permits spent in each bucket, newest first, at most twenty-one.
    counts = models.JSONField(_("counts"), default=list)
    version = models.BigIntegerField(_("version"), default=0)

    objects: ClassVar[OutboxManager[Self]] = OutboxManager()

    class Meta:
        verbose_name = _("rate window")
        verbose_name_plural = _("rate windows")
        base_manager_name = "objects"
        constraints = (models.UniqueConstraint(fields=("account", "limit_key"), name="prx_window_limit"),)

    def __str__(self) -> str:
        return f"{self.limit_key} of account {self.account_id}"


class OutboxState(models.Model):
    """The one row that describes the whole outbox."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: The ``INSTANCE`` to which this database belongs; empty: none yet.
    instance = models.CharField(_("instance"), max_length=255, blank=True, default="")
    wake_requested_at = models.DateTimeField(_("wake-up requested at"), null=True, blank=True)
    paused_at = models.DateTimeField(_("paused at"), null=True, blank=True)
    paused_until = models.DateTimeField(_("paused until"), null=True, blank=True)
    pause_reason = models.CharField(_("pause reason"), max_length=255, blank=True, default="")
    last_drain_at = models.DateTimeField(_("last drain at"), null=True, blank=True)
    last_purge_at = models.DateTimeField(_("last purge at"), null=True, blank=True)

    objects: ClassVar[OutboxManager[Self]] = OutboxManager()

    class Meta:
        verbose_name = _("state of the outbox")
        verbose_name_plural = _("state of the outbox")
        base_manager_name = "objects"
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="prx_state_one_row"),)

    def __str__(self) -> str:
        return "state of the outbox"
