"""Runtime state: what workers find out about an account, in rows apart from what a person configured.

In MariaDB an uncommitted ``enqueue`` holds a shared lock on its account's row (through the foreign key).  A pause
written to that row would wait for the caller's transaction, and every other ``enqueue`` would wait behind the pause.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from prx_email_django.models.activity import PauseRecord
from prx_email_django.models.encrypted import EncryptedTextField
from prx_email_django.models.foreign_text import ForeignCharField
from prx_email_django.models.managers import OutboxManager, OutboxModel
from prx_email_django.rules.outcomes import Trouble


class PausedBy(models.TextChoices):
    """Who set a pause.

    A worker's pause ends by itself or by a success; a person's pause ends only by a person or at its date.
    """

    NOBODY = "", _("nobody")
    WORKER = "worker", _("a worker")
    PERSON = "person", _("a person")


#: The columns of a state without a pause.
NOT_PAUSED: dict[str, Any] = {
    "paused_by": "",
    "paused_at": None,
    "paused_until": None,
    "pause_reason": "",
    "pause_code": "",
}


class AccountStateManager(OutboxManager["AccountState"]):
    """Queries over the runtime state of accounts."""

    def forget_credentials(self, account_id: int, *, keep_refresh_token: bool = False) -> None:
        """Clear tokens, failures and a worker's pause: they belong to credentials that a person has changed.

        ``keep_refresh_token``: the grant is the same (say, only a password or a client secret has changed).  A
        provider that rotates refresh tokens accepts only the last refresh token that it issued.
        """
        rows = self.filter(account_id=account_id)
        if not keep_refresh_token:
            rows.update(refresh_token="", token_version=models.F("token_version") + 1)
        rows.update(
            access_token="",
            access_token_expires_at=None,
            access_token_fetched_at=None,
            pasted_token_is_over=False,
            refresh_lease=None,
            refresh_lease_expires_at=None,
            connection_failures=0,
            last_trouble="",
            envelope_until=None,
            stepwise_until=None,
            window=0,
            window_until=None,
            no_chunking_until=None,
            size_limit=0,
            refused_in_a_row=0,
            forgiven_refusals={},
            slow_until=None,
            slow_seconds=0,
        )
        RefusedMessage.objects.filter(account_id=account_id).delete()
        self._end_pause(account_id, rows.filter(paused_by=PausedBy.WORKER))

    def forget_misconfiguration(self, account_id: int) -> None:
        """End the pause of an account that could not work: a person has edited it, and it is judged anew."""
        code = Trouble.CONFIGURATION.value
        paused = self.filter(account_id=account_id, paused_by=PausedBy.WORKER, pause_code=code)
        self._end_pause(account_id, paused)

    def _end_pause(self, account_id: int, rows: models.QuerySet[AccountState]) -> None:
        if rows.update(**NOT_PAUSED, pause_count=0, last_trouble=""):
            PauseRecord.objects.end(account_id, by="", at=timezone.now())


class AccountState(OutboxModel):
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
    pause_reason = ForeignCharField(_("pause reason"), max_length=255, blank=True, default="")
    pause_code = models.CharField(_("pause code"), max_length=30, blank=True, default="")
    #: Pauses in a row without a success between; each makes the next pause longer.
    pause_count = models.PositiveIntegerField(_("pauses in a row"), default=0)
    #: Connections that failed in a row without a completed transaction between.
    connection_failures = models.PositiveIntegerField(_("connection failures"), default=0)
    #: The last trouble that a worker met, until a transaction is completed; also while no pause is in force.
    last_trouble = ForeignCharField(_("last trouble"), max_length=255, blank=True, default="")
    access_token = EncryptedTextField(_("access token"), blank=True, default="")
    access_token_expires_at = models.DateTimeField(_("access token expires at"), null=True, blank=True)
    #: When the access token was asked for: from here to its end is its lifetime.
    access_token_fetched_at = models.DateTimeField(_("access token fetched at"), null=True, blank=True)
    #: The account's own ``oauth_token`` was refused, or a fetched token has taken its place.
    pasted_token_is_over = models.BooleanField(_("pasted token is over"), default=False)
    #: Grows with every stored token and changed grant: an answer to an older request is not stored.
    token_version = models.PositiveIntegerField(_("token version"), default=0)
    #: The last refresh token of a provider that rotates them; empty: the account's own is in use.
    refresh_token = EncryptedTextField(_("refresh token"), blank=True, default="")
    refresh_lease = models.UUIDField(_("refresh lease"), null=True, blank=True)
    refresh_lease_expires_at = models.DateTimeField(_("refresh lease expires at"), null=True, blank=True)
    #: Until then only envelopes are pipelined: the server did not bear an envelope behind a body.
    envelope_until = models.DateTimeField(_("envelope pipelining until"), null=True, blank=True)
    #: Until then commands go one at a time: the server did not bear an envelope in one piece.
    stepwise_until = models.DateTimeField(_("no pipelining until"), null=True, blank=True)
    #: Messages that one connection may have unanswered, as far as it has grown; 0: the server has not been probed.
    window = models.PositiveSmallIntegerField(_("window"), default=0)
    #: Until then one message at a time: a connection was lost with more than one unanswered.
    window_until = models.DateTimeField(_("one message at a time until"), null=True, blank=True)
    #: Until then no BDAT: the server did not bear it, or does not discard the body of a BDAT that it refuses.
    no_chunking_until = models.DateTimeField(_("no BDAT until"), null=True, blank=True)
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

    objects: ClassVar[AccountStateManager] = AccountStateManager()

    class Meta(OutboxModel.Meta):
        verbose_name = _("account state")
        verbose_name_plural = _("account states")

    def __str__(self) -> str:
        return str(_("state of account %(number)s") % {"number": self.account_id})


class RefusedMessage(OutboxModel):
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

    class Meta(OutboxModel.Meta):
        verbose_name = _("refused message")
        verbose_name_plural = _("refused messages")

    def __str__(self) -> str:
        return str(_("refusal of message %(number)s") % {"number": self.message_id})


class ConnectionSlot(OutboxModel):
    """The leased right to one connection; an account has ``max_connections`` slots over all machines."""

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="slots", verbose_name=_("account")
    )
    number = models.PositiveSmallIntegerField(_("number"))
    token = models.UUIDField(_("token"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    holder = ForeignCharField(_("holder"), max_length=255, blank=True, default="")

    class Meta(OutboxModel.Meta):
        verbose_name = _("connection slot")
        verbose_name_plural = _("connection slots")
        constraints = (models.UniqueConstraint(fields=("account", "number"), name="prx_slot_number"),)

    def __str__(self) -> str:
        return str(_("slot %(slot)s of account %(number)s") % {"slot": self.number, "number": self.account_id})


class RateWindow(OutboxModel):
    """The permits spent of one rate limit, in buckets that last a twentieth of the limit's period."""

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="rate_windows", verbose_name=_("account")
    )
    #: ``messages/60`` or ``recipients/86400``: what is counted, and the period in seconds.
    limit_key = models.CharField(_("limit"), max_length=40)
    #: Number of the newest bucket, counted from the epoch.
    bucket = models.BigIntegerField(_("bucket"), default=0)
    #: Permits spent in each bucket, newest first: back to twenty buckets before the one of the last writer.
    counts = models.JSONField(_("counts"), default=list)
    version = models.BigIntegerField(_("version"), default=0)

    class Meta(OutboxModel.Meta):
        verbose_name = _("rate window")
        verbose_name_plural = _("rate windows")
        constraints = (models.UniqueConstraint(fields=("account", "limit_key"), name="prx_window_limit"),)

    def __str__(self) -> str:
        return str(_("%(limit)s of account %(number)s") % {"limit": self.limit_key, "number": self.account_id})


class OutboxState(OutboxModel):
    """The one row that describes the whole outbox."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    #: The ``INSTANCE`` to which this database belongs; empty: none yet.
    instance = models.CharField(_("instance"), max_length=255, blank=True, default="")
    wake_requested_at = models.DateTimeField(_("wake-up requested at"), null=True, blank=True)
    paused_at = models.DateTimeField(_("paused at"), null=True, blank=True)
    paused_until = models.DateTimeField(_("paused until"), null=True, blank=True)
    pause_reason = ForeignCharField(_("pause reason"), max_length=255, blank=True, default="")
    last_drain_at = models.DateTimeField(_("last drain at"), null=True, blank=True)
    last_purge_at = models.DateTimeField(_("last purge at"), null=True, blank=True)

    class Meta(OutboxModel.Meta):
        verbose_name = _("state of the outbox")
        verbose_name_plural = _("state of the outbox")
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="prx_state_one_row"),)

    def __str__(self) -> str:
        return str(_("state of the outbox"))


class Outbox(OutboxState):
    """A name in the admin's index for the operator's page; it has no table of its own."""

    class Meta(OutboxModel.Meta):
        proxy = True
        default_permissions = ()
        verbose_name = _("dashboard")
        # The space puts it before the others: Django's index sorts by this name, and a browser does not show the space.
        verbose_name_plural = _(" Dashboard")
