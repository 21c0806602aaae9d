"""What an import needs of another outbox package: its waiting rows, its lock, and a mark that stops it from sending."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar

from django.apps import apps
from django.core.mail import EmailMessage
from django.db import connections, router
from django.db.models import QuerySet

from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.words import words as _
from prx_email_django.store.sent_elsewhere import SentElsewhere

#: Rows whose keys are read by one query; the rows themselves are read one by one.
BATCH = 500

#: A row of another package, whose models this package cannot import.
Row = Any


class ImportRefused(Exception):
    """Nothing can be imported; the text says why, and what to do."""


class RowRefused(Exception):
    """One row cannot be imported; the text says why."""


class Source(ABC):
    """The tables of another package.

    A row is *taken out* when the other package will not send it by itself any more.  That happens in the transaction
    that queues its message here, so that no crash and no second worker can send both or neither.
    """

    #: App label, argument of the command, and beginning of the idempotency keys.
    app: ClassVar[str]
    #: The package's name on PyPI, for texts.
    title: ClassVar[str]
    #: Column of the instant at which a row was queued, in both models.
    added_column: ClassVar[str]
    #: Name of the model whose rows wait, and of the model whose rows are history.
    waiting_model: ClassVar[str]
    sent_model: ClassVar[str]

    def __init__(self) -> None:
        """Find the package's models.

        Raises:
            ImportRefused: the package is not installed, or its tables are in another database than the outbox's.
        """
        if not apps.is_installed(self.app):
            raise ImportRefused(
                _(
                    "%(package)s is not in INSTALLED_APPS: keep “%(app)s” there until its mail is imported",
                    package=self.title,
                    app=self.app,
                )
            )
        self.model = apps.get_model(self.app, self.waiting_model)
        self.history_model = apps.get_model(self.app, self.sent_model)
        #: Sentences about rows that were imported with a change; whoever imports shows and clears them.
        self.notes: list[str] = []
        self._alias = theirs = router.db_for_write(self.model)
        if theirs != outbox_alias():
            raise ImportRefused(
                _(
                    "%(package)s uses the database “%(theirs)s” and the outbox “%(ours)s”: one transaction cannot hold "
                    "both, so a crash could send a message twice. Let the old package send what it has instead",
                    package=self.title,
                    theirs=theirs,
                    ours=outbox_alias(),
                )
            )

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Keep the package's own workers from sending during the import, as far as its lock reaches.

        Raises:
            ImportRefused: a worker holds the lock.
        """

    @abstractmethod
    def waiting(self, *, failed: bool = False) -> QuerySet[Any]:
        """The rows that the package would send, now or later; with ``failed`` those it has given up too."""

    @abstractmethod
    def left(self, *, failed: bool = False) -> Iterator[tuple[int, str]]:
        """Rows that ``waiting`` leaves in the package's table: (number, what they are and what to do)."""

    def added_at(self, row: Row) -> datetime:
        """When the row was queued, as it is stored."""
        moment: datetime = getattr(row, self.added_column)
        return moment

    def since(self, rows: QuerySet[Any], moment: datetime) -> QuerySet[Any]:
        """Those of the rows that were queued at or after this instant."""
        return rows.filter(**{f"{self.added_column}__gte": moment})

    @abstractmethod
    def email(self, row: Row) -> EmailMessage:
        """The message that the package would send, with its options as ``outbox_`` attributes.

        Raises:
            RowRefused: the row cannot be read.
        """

    def account_name(self, row: Row) -> str:
        """The name by which the row chooses how it is sent; empty if it chooses nothing."""
        return ""

    @abstractmethod
    def take_out(self, row: Row, message_id: int) -> None:
        """Mark the locked row, so that the package does not send it; ``message_id``: the key of our message."""

    @abstractmethod
    def put_back(self, pk: int, added_at: datetime, message_id: int) -> bool:
        """Undo ``take_out``; False if the row is not there any more or is not marked."""

    @abstractmethod
    def sent(self, since: datetime | None = None) -> QuerySet[Any]:
        """The rows of messages that the package has sent, at or after ``since``."""

    @abstractmethod
    def sent_email(self, row: Row) -> EmailMessage:
        """The message that was sent; raises as ``email``."""

    @abstractmethod
    def sent_facts(self, row: Row) -> SentElsewhere:
        """When, and under which Message-ID."""

    def key(self, row: Row) -> str:
        """Idempotency key of a waiting row; its instant tells rows apart whose ids a recreated table repeats."""
        return f"{self.app}:{row.pk}:{self.added_at(row).isoformat()}"

    def sent_key(self, row: Row) -> str:
        """Idempotency key of a row of ``sent_model``."""
        return f"{self.app}-sent:{row.pk}:{self.added_at(row).isoformat()}"

    def locked(self, rows: QuerySet[Any], pk: int) -> Row | None:
        """The row of ``rows``, locked where the database has row locks; None if it is gone, or locked by a worker."""
        features = connections[rows.db].features
        skips = bool(features.has_select_for_update_skip_locked)
        return rows.select_for_update(skip_locked=skips).filter(pk=pk).first()


def keys_of(rows: QuerySet[Any]) -> Iterator[int]:
    """The primary keys in ascending order, a batch at a time; rows that are added meanwhile are found too."""
    last: int | None = None
    while True:
        more = rows if last is None else rows.filter(pk__gt=last)
        found: Sequence[int] = list(more.order_by("pk").values_list("pk", flat=True)[:BATCH])
        yield from found
        if len(found) < BATCH:
            return
        last = found[-1]


def set_options(email: EmailMessage, **options: Any) -> EmailMessage:
    """Set ``outbox_`` attributes that have a value."""
    for name, value in options.items():
        if value is not None:
            setattr(email, f"outbox_{name}", value)
    return email
