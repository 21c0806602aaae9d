"""purge: delete old rows that are sent or at rest; never a row that may still be sent."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import F, Q, QuerySet

from prx_email_django.conf import outbox_settings
from prx_email_django.models import (
    Attachment,
    Content,
    ContentChunk,
    HourlyCount,
    InboundMessage,
    OutboxMessage,
    PauseRecord,
    Worker,
)
from prx_email_django.models.conditions import AT_REST
from prx_email_django.rules.clock import Clock
from prx_email_django.states import Status
from prx_email_django.store.contents import KEPT_FOR
from prx_email_django.store.db import atomic, retried

#: Rows of each kind in one transaction.
BATCH = 500
WORKERS_KEPT_FOR = timedelta(days=1)
#: The page of the operator shows thirty days.
HOURS_KEPT_FOR = timedelta(days=35)
#: The hour of the rows that sum up what was before, and the columns that are summed.
BEGINNING = datetime(1970, 1, 1, 1, tzinfo=UTC)
COUNTED = ("sent", "failed", "refused_recipients", "unknown", "seconds")
#: Batches of an idle worker in an hour.
IDLE_BATCHES = 20


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """How many rows of each kind were deleted or stripped (or would be)."""

    sent: int = 0
    failed: int = 0
    inbound: int = 0
    stripped: int = 0
    content: int = 0

    def __add__(self, other: PurgeReport) -> PurgeReport:
        return PurgeReport(*(left + right for left, right in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> int:
        """The sum over all kinds."""
        return self.sent + self.failed + self.inbound + self.stripped + self.content


def purge(
    *, clock: Clock, older_than: timedelta | None = None, batch: int = BATCH, dry_run: bool = False
) -> PurgeReport:
    """Purge one batch of each kind by ``RETENTION``; ``older_than`` replaces its ages of messages."""
    now, retention = clock.running, outbox_settings().retention

    def age(kept: timedelta | None) -> timedelta | None:
        return kept if older_than is None else older_than

    return PurgeReport(
        sent=_messages(_sent_before(now, age(retention.sent)), batch=batch, dry_run=dry_run),
        failed=_messages(_failed_before(now, age(retention.failed)), batch=batch, dry_run=dry_run),
        inbound=_inbound(now, age(retention.inbound), batch=batch, dry_run=dry_run),
        stripped=_strip(_sent_before(now, retention.content), batch=batch, dry_run=dry_run, clock=clock),
        content=_unreferenced(now - KEPT_FOR, batch=batch, dry_run=dry_run),
    )


def purge_idle(*, clock: Clock) -> PurgeReport:
    """Purge up to 10 000 rows of each kind: once an hour, this keeps up with 240 000 messages a day."""
    purge_activity(clock=clock)
    total = PurgeReport()
    for _ in range(IDLE_BATCHES):
        report = purge(clock=clock)
        total += report
        if not report.total:
            break
    return total


@retried
def purge_activity(*, clock: Clock) -> None:
    """Delete workers that have ended, and the history that nobody shows any more."""
    now, kept = clock.running, outbox_settings().retention.failed
    Worker.objects.filter(last_seen_at__lt=now - WORKERS_KEPT_FOR).delete()
    _fold_old_hours(now - HOURS_KEPT_FOR)
    if kept is not None:
        PauseRecord.objects.filter(ended_at__lt=now - kept).delete()


def _fold_old_hours(before: datetime) -> None:
    """Replace old hours by one row for each account, so that the sum over all rows, a counter, never falls."""
    with atomic():
        old = HourlyCount.objects.filter(hour__lt=before).exclude(hour=BEGINNING).select_for_update()
        rows = list(old.order_by("pk"))
        for account_id in sorted({row.account_id for row in rows}):
            theirs = [row for row in rows if row.account_id == account_id]
            sums = {name: sum(getattr(row, name) for row in theirs) for name in COUNTED}
            total, is_new = HourlyCount.objects.get_or_create(
                account_id=account_id, hour=BEGINNING, worker="", defaults=sums
            )
            if not is_new:
                added = {name: F(name) + amount for name, amount in sums.items()}
                HourlyCount.objects.filter(pk=total.pk).update(**added)
        HourlyCount.objects.filter(pk__in=[row.pk for row in rows]).delete()


def sent_kept_since(now: datetime) -> datetime | None:
    """A message that was queued and sent before this instant is purged; None: no message is."""
    kept = outbox_settings().retention.sent
    return None if kept is None else now - kept


def _sent_before(now: datetime, age: timedelta | None) -> QuerySet[OutboxMessage]:
    if age is None:
        return OutboxMessage.objects.none()
    # created_at is never later than sent_at, and is the column that has an index.
    return OutboxMessage.objects.filter(created_at__lt=now - age, status=Status.SENT, sent_at__lt=now - age)


def _failed_before(now: datetime, age: timedelta | None) -> QuerySet[OutboxMessage]:
    if age is None:
        return OutboxMessage.objects.none()
    at_rest = OutboxMessage.objects.filter(AT_REST)
    return at_rest.filter(created_at__lt=now - age, updated_at__lt=now - age)


def _messages(old: QuerySet[OutboxMessage], *, batch: int, dry_run: bool) -> int:
    if dry_run:
        return old.count()
    ids = list(old.order_by("created_at").values_list("pk", flat=True)[:batch])
    return _delete(ids, old) if ids else 0


@retried
def _delete(ids: list[int], old: QuerySet[OutboxMessage]) -> int:
    with atomic():
        # Selected once more under the lock: a person may have requeued a message meanwhile.
        still_old = list(old.filter(pk__in=ids).select_for_update().values_list("pk", flat=True))
        return OutboxMessage.objects.filter(pk__in=still_old).delete()[1].get("prx_email_django.OutboxMessage", 0)


def _inbound(now: datetime, age: timedelta | None, *, batch: int, dry_run: bool) -> int:
    if age is None:
        return 0
    old = InboundMessage.objects.filter(received_at__lt=now - age)
    if dry_run:
        return old.count()
    return InboundMessage.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:batch])).delete()[0]


@retried
def _strip(old: QuerySet[OutboxMessage], *, batch: int, dry_run: bool, clock: Clock) -> int:
    """Remove bodies and attachments from sent messages that are kept."""
    full = old.filter(~Q(body_text="") | ~Q(body_html="") | Q(raw__isnull=False) | Q(size__gt=0))
    if dry_run:
        return full.count()
    ids = list(full.order_by("created_at").values_list("pk", flat=True)[:batch])
    if not ids:
        return 0
    with atomic():
        stripped = full.filter(pk__in=ids).update(body_text="", body_html="", raw=None, size=0, updated_at=clock.now)
        Attachment.objects.filter(message_id__in=ids).update(content=None)
    return stripped


def _unreferenced(before: datetime, *, batch: int, dry_run: bool) -> int:
    unused = Content.objects.filter(stored_at__lt=before, attachments__isnull=True, messages__isnull=True)
    if dry_run:
        return unused.count()
    ids = list(unused.order_by("stored_at").values_list("pk", flat=True)[:batch])
    if not ids:
        return 0
    return _delete_content(ids)


@retried
def _delete_content(ids: list[int]) -> int:
    with atomic():
        ContentChunk.objects.filter(content_id__in=ids).delete()
        return Content.objects.filter(pk__in=ids).delete()[1].get("prx_email_django.Content", 0)
