"""Waiting mail: moved from another package into the outbox, and back.

Each message is moved in a transaction of its own, so memory holds one message, and a run that is ended leaves every
message in exactly one of the two queues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.mail import EmailMessage
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models import QuerySet

from prx_email_django import api
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.contrib.importing.source import ImportRefused, Row, RowRefused, Source, keys_of
from prx_email_django.errors import AccountUnavailable, OutboxError
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.conditions import QUEUED
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.words import words as _
from prx_email_django.states import ErrorCode, RecipientResult
from prx_email_django.store.db import atomic, retried_after_conflict
from prx_email_django.store.draft import Draft, idempotency_hash

#: How often one row can be moved here and back.
GENERATIONS = 10

#: What became of one row: outcome, primary key in the other package's table, and a sentence (empty: nothing to say).
Tell = Callable[[str, int, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to import: ``account`` is the name of an account, empty where each message has its own."""

    account: str = ""
    dry_run: bool = False


def import_waiting(source: Source, rows: QuerySet[Any], options: Options, tell: Tell) -> None:
    """Move the rows into the outbox.

    Outcomes: ``imported``; ``known`` (an earlier run has moved it, and something put it back into the other queue);
    ``refused`` with the reason; ``busy`` (a worker of the other package is sending it now); ``gone`` (sent or deleted
    meanwhile).

    Raises:
        AccountUnavailable: no account for the messages; what was moved before stays moved.
    """
    queue = Queue(source, options.account)
    for pk in keys_of(rows):
        outcome, detail = _import_one(source, rows, pk, queue, dry_run=options.dry_run)
        tell(outcome, pk, "; ".join(filter(None, [detail, *source.notes])))
        source.notes.clear()


@retried_after_conflict
def _import_one(source: Source, rows: QuerySet[Any], pk: int, queue: Queue, *, dry_run: bool) -> tuple[str, str]:
    with atomic():
        row = source.locked(rows, pk)
        if row is None:
            is_there = rows.filter(pk=pk).exists()
            return ("busy", "a worker is sending it; run this again later") if is_there else ("gone", "")
        key, known = queue.key(source.key(row))
        if known is not None:
            source.take_out(row, known.pk)
            outcome = "known", f"it is message {known.pk}"
        else:
            try:
                outcome = "imported", ""
                with atomic():
                    source.take_out(row, queue.add(row, source.email(row), key))
            except Exception as error:  # noqa: BLE001  (templates, files and pickles of the project raise anything)
                return "refused", reason(error)
        if dry_run:
            transaction.set_rollback(True, using=outbox_alias())
        return outcome


class Queue:
    """Queues emails of a source by the email backend, so that every rule of the backend holds."""

    def __init__(self, source: Source, account: str) -> None:
        self._source = source
        self._backend = OutboxEmailBackend(account=account or None)
        self._has_account = bool(account)
        self._accounts = dict(Account.objects.values_list("name", "pk"))

    def add(self, row: Row, email: EmailMessage, key: str) -> int:
        """Queue the email; return the key of its message.  Raises what the backend raises, and ``RowRefused``."""
        self._prepare(row, email, key)
        if not self._backend.send_messages([email]):
            raise RowRefused("it has no recipient")
        return int(email.outbox_id)  # type: ignore[attr-defined]

    def key(self, base: str) -> tuple[str, OutboxMessage | None]:
        """The key for a new message, and the message that has been made of the row already.

        A message that was cancelled does not count: it went back to the other package, or a person has put the row into
        the other queue again.  Keys are unique for each account, and an earlier run may have chosen another account.
        """
        keys = [base, *(f"{base}#{number}" for number in range(2, GENERATIONS + 1))]
        hashes = [idempotency_hash(key) for key in keys]
        accounts = list(self._accounts.values())
        found = OutboxMessage.objects.filter(account_id__in=accounts, idempotency_hash__in=hashes)
        taken = {message.idempotency_key: message for message in found}
        for key in keys:
            message = taken.get(key)
            if message is None or message.last_error_code != ErrorCode.CANCELLED:
                return key, message
        raise ImportRefused(
            _("a row was imported and given back %(count)d times: %(key)s", count=GENERATIONS, key=base)
        )

    def draft(self, row: Row, email: EmailMessage, key: str) -> Draft:
        """The draft of the email, unwritten.  Raises as ``add``."""
        self._prepare(row, email, key)
        return self._backend.drafts([email])[0]

    def _prepare(self, row: Row, email: EmailMessage, key: str) -> None:
        """Set the account, the idempotency key and the origin of the email."""
        name = "" if self._has_account else self._source.account_name(row)
        if name and name not in self._accounts:
            raise RowRefused(f"no account is named “{name}” as its backend: add it, or name an account (--account)")
        if name:
            email.outbox_account = name  # type: ignore[attr-defined]
        own = getattr(email, "outbox_metadata", None) or {}
        origin = {"imported_from": self._source.app, "imported_id": row.pk}
        email.outbox_metadata = {**own, **origin}  # type: ignore[attr-defined]
        email.outbox_idempotency_key = key  # type: ignore[attr-defined]


def reason(error: Exception) -> str:
    """Why a row was refused, in words.

    Raises:
        DatabaseError, AccountUnavailable: the given error, which would refuse every row.
    """
    if isinstance(error, DatabaseError | AccountUnavailable):
        raise error
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, RowRefused):
        return text
    return f"{text} ({error.code})" if isinstance(error, OutboxError) else f"{type(error).__name__}: {text}"


def give_back(source: Source, options: Options, tell: Tell) -> None:
    """Give imported mail that still waits here back to the other package.

    Outcomes: ``returned``; ``kept`` with the reason (a copy may have been delivered, or the row is gone there).
    """
    rows = OutboxMessage.objects.filter(QUEUED, idempotency_key__startswith=f"{source.app}:")
    if options.account:
        rows = rows.filter(account__name=options.account)
    for pk in keys_of(rows):
        outcome, theirs, detail = _give_back_one(source, rows, pk, dry_run=options.dry_run)
        if outcome:
            tell(outcome, theirs, detail)


@retried_after_conflict
def _give_back_one(source: Source, rows: QuerySet[OutboxMessage], pk: int, *, dry_run: bool) -> tuple[str, int, str]:
    with atomic():
        message = rows.filter(pk=pk).first()
        if message is None:  # sent or claimed meanwhile
            return "", 0, ""
        _, number, added_at = str(message.idempotency_key).partition("#")[0].split(":", 2)
        theirs = int(number)
        answered = [RecipientResult.ACCEPTED, RecipientResult.UNKNOWN]
        if message.attempts > message.retries or message.recipients.filter(result__in=answered).exists():
            return "kept", theirs, f"message {pk} may have been delivered, to some recipients at least"
        if not api.cancel_outbox([pk]).changed:
            return "", 0, ""
        if not source.put_back(theirs, datetime.fromisoformat(added_at), pk):
            transaction.set_rollback(True, using=outbox_alias())
            return "kept", theirs, f"message {pk} stays here: its row in {source.title} is gone, or has no content"
        if dry_run:
            transaction.set_rollback(True, using=outbox_alias())
        return "returned", theirs, ""
