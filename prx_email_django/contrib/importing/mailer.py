"""The tables of django-mailer (tried with 2.3).

Its workers lock the row of a message while they send it and delete the row afterwards, so where the database has row
locks the import may work beside them.  SQLite has none: there the import holds the workers' lock file.

A message is a pickled ``EmailMessage``.  Reading a pickle can execute code; every worker of django-mailer reads it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parseaddr
from functools import cached_property
from importlib import import_module
from typing import Any

from django.core.mail import EmailMessage
from django.db import connections
from django.db.models import QuerySet

from prx_email_django.conf.reader import mailer_retry_limit, mailer_uses_lock_file
from prx_email_django.contrib.importing.source import ImportRefused, Row, RowRefused, Source, set_options
from prx_email_django.rules.words import words as _
from prx_email_django.store.sent_elsewhere import SentElsewhere

#: ``mailer.models``: high, medium, low, deferred -> priority here.
PRIORITIES = {1: 5, 2: 0, 3: -5, 4: 0}


class MailerSource(Source):
    """``Message`` rows; one that was moved becomes a ``MessageLog`` row with the result “don't send”."""

    app = "mailer"
    added_column = "when_added"
    title = "django-mailer"
    waiting_model = "Message"
    sent_model = "MessageLog"

    def __init__(self) -> None:
        super().__init__()
        self._models = import_module("mailer.models")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock file of ``send_mail`` and ``runmailer`` where the database has no row locks."""
        if connections[self._alias].features.has_select_for_update or not mailer_uses_lock_file():
            yield
            return
        engine = import_module("mailer.engine")
        acquired, held = engine.acquire_lock()
        if not acquired:
            raise ImportRefused(
                _(
                    "a worker of django-mailer holds its lock file (%(file)s): stop it and its cron job, then run this "
                    "again in the same directory; if no worker runs, delete the file",
                    file=held.lock_file,
                )
            )
        try:
            yield
        finally:
            engine.release_lock(held)

    def waiting(self, *, failed: bool = False) -> QuerySet[Any]:
        """Every row, deferred ones too; without ``failed`` not those that ``retry_deferred`` has given up."""
        rows = self._rows(self.model)
        return rows if failed else rows.exclude(**self._given_up) if self._given_up else rows

    def left(self, *, failed: bool = False) -> Iterator[tuple[int, str]]:
        """Deferred rows that were tried MAILER_EMAIL_MAX_RETRIES times."""
        if self._given_up and not failed:
            count = self._rows(self.model).filter(**self._given_up).count()
            yield count, "deferred, and tried MAILER_EMAIL_MAX_RETRIES times: --failed imports them"

    def email(self, row: Row) -> EmailMessage:
        """The stored message, without recipients of the don't-send list."""
        email = self._read(row)
        before = len(email.recipients())
        for kind in ("to", "cc", "bcc"):
            setattr(email, kind, [address for address in getattr(email, kind) or () if self._may_get_mail(address)])
        dropped = before - len(email.recipients())
        if dropped == before:
            raise RowRefused("every recipient is on the don't-send list" if before else "it has no recipient")
        if dropped:
            self.notes.append(f"{dropped} of {before} recipients left out, because they are on the don't-send list")
        own = getattr(email, "outbox_priority", None)
        return email if own is not None else set_options(email, priority=PRIORITIES.get(row.priority, 0))

    def take_out(self, row: Row, message_id: int) -> None:
        """Log the row as “don't send” and delete it, as a worker does after it has sent the message."""
        self._models.MessageLog.objects.log(row, self._models.RESULT_DONT_SEND, log_message=_moved(message_id))
        row.delete()

    def put_back(self, pk: int, added_at: datetime, message_id: int) -> bool:
        """Make a waiting row of the log entry; False where MAILER_EMAIL_LOG_MESSAGE_DATA has dropped its content."""
        logs = self._rows(self.history_model).filter(when_added=added_at, log_message=_moved(message_id))
        log = logs.select_for_update().first()
        if log is None or not log.message_data:
            return False
        row = self.model(message_data=log.message_data, when_added=log.when_added, priority=log.priority)
        row.save(using=self._alias)
        log.delete()
        return True

    def sent(self, since: datetime | None = None) -> QuerySet[Any]:
        """Log entries with the result “success”."""
        rows = self._rows(self.history_model).filter(result=self._models.RESULT_SUCCESS)
        return rows if since is None else rows.filter(when_attempted__gte=since)

    def sent_email(self, row: Row) -> EmailMessage:
        """The logged message."""
        if not row.message_data:
            raise RowRefused("its content was not kept (MAILER_EMAIL_LOG_MESSAGE_DATA)")
        return self._read(row)

    def sent_facts(self, row: Row) -> SentElsewhere:
        """``when_added``, ``when_attempted`` and the Message-ID of the log entry."""
        sent_at = row.when_attempted
        return SentElsewhere(self.title, min(row.when_added, sent_at), sent_at, str(row.message_id or ""))

    @cached_property
    def _given_up(self) -> dict[str, Any]:
        limit = mailer_retry_limit()
        deferred = self._models.PRIORITY_DEFERRED
        return {} if limit is None else {"priority": deferred, "retry_count__gte": limit}

    @cached_property
    def _has_refusing_addresses(self) -> bool:
        return bool(self._models.DontSendEntry.objects.exists())

    def _may_get_mail(self, address: Any) -> bool:
        if not self._has_refusing_addresses:
            return True
        entries = self._models.DontSendEntry.objects
        forms: Iterable[str] = {str(address), parseaddr(str(address))[1]}
        return not any(entries.has_address(form) for form in forms)

    def _rows(self, model: Any) -> QuerySet[Any]:
        rows: QuerySet[Any] = model._default_manager.using(self._alias).all()
        return rows

    def _read(self, row: Row) -> EmailMessage:
        email = row.email
        if not isinstance(email, EmailMessage):
            raise RowRefused(
                "django-mailer cannot read its message_data either, and discards the message when it meets it"
            )
        return email


def _moved(message_id: int) -> str:
    return f"moved to prx_email_django as message {message_id}"
