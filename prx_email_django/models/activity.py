"""What happened over time, for people: pauses, workers, and counts by the hour."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from prx_email_django.models.foreign_text import ForeignCharField
from prx_email_django.models.managers import OutboxManager, OutboxModel
from prx_email_django.rules.text import MAX_COLUMN

#: Kind of the workers that stay: ``flush_outbox --loop``.
LOOP = "loop"
#: ``by`` of a pause that a worker set or ended.
BY_WORKER = "worker"


class PauseRecordManager(OutboxManager["PauseRecord"]):
    """Writes the history; to be called in the transaction that pauses or resumes."""

    def begin(  # noqa: PLR0913  (the columns of the record)
        self,
        account_id: int | None,
        *,
        code: str,
        reason: str,
        by: str,
        at: datetime,
        until: datetime | None,
    ) -> None:
        """Record a pause of one account, or (None) of everything; the pause before ends with it.

        A worker's next pause for the same trouble, with no success between, goes on with the record.
        """
        values = {"reason": reason[:MAX_COLUMN], "until": until}
        if by == BY_WORKER and self._open(account_id).filter(by=BY_WORKER, code=code).update(**values):
            return
        self.end(account_id, by=by, at=at)
        self.create(account_id=account_id, code=code, by=by[:MAX_COLUMN], begun_at=at, **values)

    def end(self, account_id: int | None, *, by: str, at: datetime) -> None:
        """Record the end of the present pause of one account, or (None) of everything."""
        self._open(account_id).update(ended_at=at, ended_by=by[:MAX_COLUMN])

    def _open(self, account_id: int | None) -> models.QuerySet[PauseRecord]:
        whose = Q(account__isnull=True) if account_id is None else Q(account_id=account_id)
        return self.filter(whose, ended_at__isnull=True)


class PauseRecord(OutboxModel):
    """One pause of an account, or of everything: by whom, why, from when to when."""

    account = models.ForeignKey(
        "prx_email_django.Account",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="pause_records",
        verbose_name=_("account"),
    )
    code = models.CharField(_("code"), max_length=30, blank=True, default="")
    reason = ForeignCharField(_("reason"), max_length=MAX_COLUMN, blank=True, default="")
    #: ``worker``, or the name of a person; empty: a caller who gave none.
    by = ForeignCharField(_("by"), max_length=MAX_COLUMN, blank=True, default="")
    begun_at = models.DateTimeField(_("begun at"))
    #: When the pause ends, or a worker tries again; None: when a person resumes.
    until = models.DateTimeField(_("until"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)
    #: As ``by``; empty also where the pause's time was over.
    ended_by = ForeignCharField(_("ended by"), max_length=MAX_COLUMN, blank=True, default="")

    objects: ClassVar[PauseRecordManager] = PauseRecordManager()

    class Meta(OutboxModel.Meta):
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        ordering = ("-begun_at", "-id")
        indexes = (models.Index(fields=("account", "begun_at"), name="prx_pause_account"),)

    def __str__(self) -> str:
        if self.account_id is None:
            return str(_("pause of everything"))
        return str(_("pause of account %(number)s") % {"number": self.account_id})


class WorkerState(models.TextChoices):
    """What a worker did when it was seen last."""

    WORKING = "working", _("working")
    IDLE = "idle", _("idle")
    #: A loop has come to its end: a loop that is idle and seen no more hangs or was killed.
    ENDED = "ended", _("ended")


class Worker(OutboxModel):
    """One process that sends: what it is, and when it was seen last.  Only that process writes the row.

    A working worker, or an idle loop, that is not seen for a minute hangs or was killed; any other has ended.
    """

    #: host:pid
    name = models.CharField(_("name"), max_length=MAX_COLUMN, unique=True)
    #: ``loop``, ``task``, ``command``, or ``drain`` for a plain call.
    kind = models.CharField(_("kind"), max_length=20)
    state = models.CharField(_("state"), max_length=10, choices=WorkerState.choices, default=WorkerState.IDLE)
    started_at = models.DateTimeField(_("started at"))
    last_seen_at = models.DateTimeField(_("last seen at"), db_index=True)
    sent = models.PositiveBigIntegerField(_("sent"), default=0)

    class Meta(OutboxModel.Meta):
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return self.name


class HourlyCount(OutboxModel):
    """What one process did for one account in one hour; a reader adds up the rows of all processes.

    Each process writes rows of its own, so that no two wait for each other.
    """

    account = models.ForeignKey(
        "prx_email_django.Account", models.CASCADE, related_name="hourly_counts", verbose_name=_("account")
    )
    hour = models.DateTimeField(_("hour"))
    #: host:pid
    worker = models.CharField(_("worker"), max_length=MAX_COLUMN)
    #: Messages that were accepted for all recipients that were not refused.
    sent = models.IntegerField(_("sent"), default=0)
    #: Messages that came to rest by an outcome, a recovery or an expiry.
    failed = models.IntegerField(_("failed"), default=0)
    refused_recipients = models.IntegerField(_("refused recipients"), default=0)
    #: Attempts whose outcome nobody knows, those of lost workers too.
    unknown = models.IntegerField(_("unknown outcomes"), default=0)
    #: Seconds from due to accepted, over all sent messages.
    seconds = models.FloatField(_("seconds from due to accepted"), default=0.0)

    class Meta(OutboxModel.Meta):
        verbose_name = _("hourly count")
        verbose_name_plural = _("hourly counts")
        constraints = (models.UniqueConstraint(fields=("hour", "account", "worker"), name="prx_hour_of_worker"),)

    def __str__(self) -> str:
        hour = f"{self.hour:%Y-%m-%d %H:00}"
        return str(_("account %(number)s at %(hour)s") % {"number": self.account_id, "hour": hour})
