"""The tables of django-post_office (tried with 3.12).

Its workers read a hundred queued rows, send them, and write their statuses afterwards; they lock no row.  A lock file
keeps two workers of one machine apart, so the import holds that file.  A worker on another machine has to be stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from typing import Any

from django.core.mail import EmailMessage
from django.db.models import Q, QuerySet
from django.utils import timezone

from prx_email_django.contrib.importing.source import ImportRefused, Row, Source, set_options
from prx_email_django.rules.words import words as _
from prx_email_django.store.sent_elsewhere import SentElsewhere

#: ``post_office.models.PRIORITY`` (low, medium, high, now) -> priority here.
PRIORITIES = {0: -5, 1: 0, 2: 5, 3: 10}
#: Exception type of the ``Log`` row that says where a message went.
MOVED = "MovedToOutbox"


class PostOfficeSource(Source):
    """``Email`` rows; a row that was moved has no status, and a ``Log`` row names our message."""

    app = "post_office"
    added_column = "created"
    title = "django-post_office"
    waiting_model = sent_model = "Email"

    def __init__(self) -> None:
        super().__init__()
        self._status = import_module("post_office.models").STATUS

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the file by which ``send_queued_mail`` keeps out a second run on this machine."""
        module = import_module("post_office.lockfile")
        try:
            held = module.FileLock(module.default_lockfile).__enter__()
        except (module.FileLocked, FileExistsError) as error:
            raise ImportRefused(
                _("send_queued_mail of django-post_office is running: stop it and its cron job, then run this again")
            ) from error
        try:
            yield
        finally:
            held.release()

    def waiting(self, *, failed: bool = False) -> QuerySet[Any]:
        """Queued and requeued rows that have not expired; with ``failed`` also those whose retries are used up."""
        statuses = [self._status.queued, self._status.requeued, *([self._status.failed] if failed else [])]
        return self._rows().filter(status__in=statuses).exclude(self._expired())

    def left(self, *, failed: bool = False) -> Iterator[tuple[int, str]]:
        """Expired rows, failed rows, and rows with priority “now” without a result."""
        rows = self._rows()
        waiting = Q(status__in=[self._status.queued, self._status.requeued])
        yield rows.filter(waiting).filter(self._expired()).count(), "expired: post_office does not send them either"
        if not failed:
            count = rows.filter(status=self._status.failed).exclude(self._expired()).count()
            yield count, "failed: --failed imports them"
        begun = rows.filter(status=None).exclude(logs__exception_type=MOVED)
        yield begun.count(), "without a status: sent with priority “now” and not finished, so they may have been sent"

    def email(self, row: Row) -> EmailMessage:
        """The message that ``dispatch()`` would send: templates rendered, files and inline images attached."""
        scheduled = row.scheduled_time
        return set_options(
            self.sent_email(row),
            priority=PRIORITIES.get(row.priority, 0),
            # An instant in the past would count as waiting since then, and GIVE_UP_AFTER could end it.
            send_at=scheduled if scheduled and scheduled > timezone.now() else None,
            expires_at=row.expires_at,
        )

    def account_name(self, row: Row) -> str:
        """``backend_alias``."""
        return str(row.backend_alias or "")

    def take_out(self, row: Row, message_id: int) -> None:
        """Clear the status: ``send_queued_mail`` does not select the row, and the admin does not call it failed."""
        self._write(row.pk, None)
        text = f"moved to prx_email_django as message {message_id}"
        row.logs.create(status=self._status.failed, exception_type=MOVED, message=text)

    def put_back(self, pk: int, added_at: datetime, message_id: int) -> bool:
        """Queue the row again."""
        row = self.locked(self._rows().filter(status=None, created=added_at), pk)
        if row is None:
            return False
        self._write(pk, self._status.queued)
        row.logs.filter(exception_type=MOVED).delete()
        return True

    def sent_key(self, row: Row) -> str:
        """That of the waiting row: it is the same row."""
        return self.key(row)

    def sent(self, since: datetime | None = None) -> QuerySet[Any]:
        """Rows with the status ``sent``."""
        rows = self._rows().filter(status=self._status.sent)
        return rows if since is None else rows.filter(last_updated__gte=since)

    def sent_email(self, row: Row) -> EmailMessage:
        """The message, made again from the row and the templates of today."""
        email: EmailMessage = row.email_message()
        return email

    def sent_facts(self, row: Row) -> SentElsewhere:
        """The instant of the last log entry; where LOG_LEVEL keeps none, of the row's last change."""
        log = row.logs.filter(status=self._status.sent).order_by("-pk").first()
        sent_at = row.last_updated if log is None else log.date
        return SentElsewhere(self.title, min(row.created, sent_at), sent_at, str(row.message_id or ""))

    def _rows(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.using(self._alias).all()
        return rows

    def _expired(self) -> Q:
        return Q(expires_at__isnull=False, expires_at__lte=timezone.now())

    def _write(self, pk: int, status: int | None) -> None:
        # ``save()`` would validate the whole row, which may be older than its rules.
        self._rows().filter(pk=pk).update(status=status)
