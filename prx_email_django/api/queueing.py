"""enqueue: the message is committed or rolled back with the caller's work."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from prx_email_django.api.arguments import with_parameters_of
from prx_email_django.api.wake import wake_after_statement, wake_on_commit
from prx_email_django.compose import known
from prx_email_django.compose.accounts import AccountRef, account_and_largest, account_to_queue, resolve_account
from prx_email_django.compose.message import MessageArguments, check_limits, compose, largest_size
from prx_email_django.compose.plain import is_plain, plain_draft
from prx_email_django.compose.validation import check_instant, check_not_expired
from prx_email_django.django_mail.draft import draft_from_email
from prx_email_django.django_mail.options import account_of
from prx_email_django.errors import InvalidMessage, OutboxError
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.managers import outbox_connection
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import atomic, clock_for, refusing_text, retried
from prx_email_django.store.draft import Draft, is_queued
from prx_email_django.store.insert import by_key, insert, insert_many
from prx_email_django.store.insert_execution import Unfit, Unsuited
from prx_email_django.store.insert_statement import can_insert, insert_together
from prx_email_django.store.inserted_rows import without_content

if TYPE_CHECKING:
    from django.core.mail import EmailMessage

#: Types of addresses that can be read any number of times.
_READ_TWICE = (str, list, tuple)
#: Messages that ``enqueue_many`` holds at a time.
BULK = 1000


@dataclass(slots=True, kw_only=True)
class EnqueueArguments(MessageArguments):
    """The parameters of ``enqueue``."""

    send_at: datetime | None = None


def _enqueue_plain(given: Mapping[str, Any]) -> OutboxMessage | None:
    """Queue a plain message in few statements, or as ``enqueue`` where that is not possible; None: it is not plain."""
    if not is_plain(given) or not can_insert(connection := outbox_connection()):
        return None
    try:
        account, version = account_to_queue(connection, given.get("account"))
        draft = plain_draft(given, account=account, now=None, largest=0, version=version)
        return _write_at_once(connection, [draft], now=None)[0]
    except (Unfit, OutboxError):
        pass  # outside: errors of the next try must not keep this one
    return _enqueue_in_steps(EnqueueArguments(**given))


@with_parameters_of(EnqueueArguments, first=_enqueue_plain)
def enqueue(arguments: EnqueueArguments) -> OutboxMessage:
    """Queue a message, inside or outside ``atomic()``; a drain is woken when it is committed.

    Args:
        account: an ``Account``, its primary key, or its name; left out: the default account.
        to: one address or several; ``"Ann <ann@x.org>"`` is allowed (also cc, bcc, reply_to).
        envelope_from: reverse-path (RFC 5321 §4.4) where it differs from the From address; ``"<>"``: none.
        idempotency_key: unique per account; a second call with it returns the first message.
        priority: −10 to 10, higher goes first.
        expires_at: not sent after this instant.
        on_unknown: ``"retry"`` (at least once) or ``"hold"`` (at most once); None: the setting.
        tag, metadata: the caller's own, never sent.
        is_sensitive: text, HTML, headers and files are removed as soon as the message is sent.
        send_at: not sent before this instant.

    Raises:
        InvalidMessage, AttachmentRejected, AccountUnavailable: nothing has been written.
    """
    check_instant("now", arguments.now)
    connection = outbox_connection()
    if can_insert(connection) and _can_be_read_twice(arguments):
        written = _enqueue_at_once(arguments, connection)
        if written is not None:
            return written
    return _enqueue_in_steps(arguments)


def _enqueue_in_steps(arguments: EnqueueArguments) -> OutboxMessage:
    account, largest = account_and_largest(arguments.account)
    clock = clock_for(arguments.now)
    draft = compose(arguments, account=account, now=clock.now, largest=largest)
    message, is_new = insert(draft, clock=clock)
    if is_new and is_due(draft, clock):
        wake_on_commit()
    return message


def _can_be_read_twice(arguments: EnqueueArguments) -> bool:
    """Whether the arguments are still there after they have been read once; files go the ordinary way in any case."""
    has_files = arguments.attachment is not None or arguments.attachments not in ((), [], None)
    return (
        not has_files
        and isinstance(arguments.to, _READ_TWICE)
        and isinstance(arguments.cc, _READ_TWICE)
        and isinstance(arguments.bcc, _READ_TWICE)
        and isinstance(arguments.reply_to, _READ_TWICE)
    )


def _enqueue_at_once(arguments: EnqueueArguments, connection: Any) -> OutboxMessage | None:
    """Queue in few statements; None: something is wrong, and the ordinary way says so, with an account read anew."""
    try:
        account, version = account_to_queue(connection, arguments.account)
        draft = compose(arguments, account=account, now=arguments.now, largest=0, version=version)
        return _write_at_once(connection, [draft], now=arguments.now)[0]
    except (Unfit, OutboxError):
        return None


def _write_at_once(connection: Any, drafts: Sequence[Draft], *, now: datetime | None) -> list[OutboxMessage]:
    """Write drafts, all or none, in few statements, and ask for a drain; where a key is known, find its message.

    Raises:
        Unfit: nothing was written.
    """
    begun = monotonic()
    try:
        done = insert_together(connection, drafts, now=now)
    except Unsuited:
        raise
    except Unfit:
        known.forget()  # an account that has changed would send every further message the long way
        raise
    if done.is_due:
        wake_after_statement(asked=done.asked, seconds=monotonic() - begun)
    return [by_key(draft) if message is None else message for draft, message in zip(drafts, done.messages, strict=True)]


def is_due(draft: Draft, clock: Clock) -> bool:
    """Whether the draft's message is due now."""
    return draft.due_at is None or draft.due_at <= clock.now


def enqueue_drafts(
    drafts: Sequence[Draft], *, now: datetime | None = None, connection: Any = None
) -> list[OutboxMessage]:
    """Queue drafts that were made elsewhere (the email backend), all or none, in a few statements.

    ``connection``: that to the outbox's database, where the caller has it.

    Raises:
        Unfit: a draft was made by an account that has changed since it was read; nothing was written.
    """
    for draft in drafts:
        check_limits(draft, largest=0)
    connection = connection or outbox_connection()
    if can_insert(connection) and (len(drafts) == 1 or not any(draft.idempotency_key for draft in drafts)):
        try:
            return _write_at_once(connection, drafts, now=now)
        except Unfit:
            if any(draft.version for draft in drafts):
                raise
    return _write_in_steps(drafts, now=now)


def _write_in_steps(drafts: Sequence[Draft], *, now: datetime | None) -> list[OutboxMessage]:
    """Write drafts in a few statements, after the checks that the one statement makes."""
    clock = clock_for(now)
    largest = {
        account.pk: largest_size(account) for account in {draft.account.pk: draft.account for draft in drafts}.values()
    }
    for draft in drafts:
        known_key = partial(is_queued, draft.account, draft.idempotency_key)
        check_not_expired(draft.fields.get("expires_at"), clock.now, is_queued=known_key)
        check_limits(draft, largest=largest[draft.account.pk])
    return insert_drafts(drafts, clock=clock)


def enqueue_many(
    messages: Iterable[Mapping[str, Any] | EmailMessage], *, account: AccountRef | None = None
) -> list[OutboxMessage]:
    """Queue many messages, all or none: dicts of ``enqueue``'s arguments, or Django's ``EmailMessage`` objects.

    An ``EmailMessage`` may name another account (``outbox_account``), which wins as in the email backend; its
    ``outbox_id`` is set to the key of its row.

    ``messages`` may be a generator: a thousand of them are held at a time.  More than that are written in one
    transaction (the caller's, where one is open), which ends with the last message; the generator runs within it.  Of
    the returned rows those beyond the first thousand hold no text: a field that is not there is read when it is used.

    Raises:
        InvalidMessage, AttachmentRejected, AccountUnavailable: nothing has been written; a note on the error
            (``__notes__``) says which of the messages it was, counted from 0.
    """
    # Each is composed as it comes: callers may use one dict again for all of them.
    drafts = _drafts(messages, accounts=_Accounts(account))
    batch, following = list(islice(drafts, BULK)), list(islice(drafts, 1))
    if not following:
        rows = _write_many([draft for draft, _ in batch])
        for row, (_, email) in zip(rows, batch, strict=True):
            _set_id(email, row.pk)
        return rows
    emails: list[tuple[int, weakref.ref[EmailMessage]]] = []
    with atomic():
        rows = []
        while batch:
            written = _write_many([draft for draft, _ in batch])
            for row, (_, email) in zip(written, batch, strict=True):
                if email is not None:
                    emails.append((row.pk, weakref.ref(email)))
            rows += map(without_content, written) if rows else written
            batch, following = [*following, *islice(drafts, BULK - len(following))], []
    for pk, reference in emails:
        _set_id(reference(), pk)
    return rows


def _set_id(email: EmailMessage | None, pk: int) -> None:
    if email is not None:
        email.outbox_id = pk  # type: ignore[attr-defined]


def _drafts(
    messages: Iterable[Mapping[str, Any] | EmailMessage], *, accounts: _Accounts
) -> Iterator[tuple[Draft, EmailMessage | None]]:
    now = clock_for(None).now
    for number, message in enumerate(messages):
        try:
            draft = _draft(message, accounts=accounts, now=now)
        except OutboxError as error:
            error.add_note(f"enqueue_many: message {number}, counted from 0; none of them has been queued")
            raise
        yield draft, None if isinstance(message, Mapping) else message


def _write_many(drafts: Sequence[Draft]) -> list[OutboxMessage]:
    connection = outbox_connection()
    if drafts and can_insert(connection) and not any(draft.idempotency_key for draft in drafts):
        with suppress(Unfit):
            return _write_at_once(connection, drafts, now=None)
    return insert_drafts(drafts, clock=clock_for(None))


class _Accounts:
    """The account of the call and those that messages name (``outbox_account``), each looked up once."""

    def __init__(self, default: AccountRef | None) -> None:
        self.default = resolve_account(default)
        self._found: dict[int | str, Account] = {}
        self._largest: dict[int, int] = {}

    def of(self, email: EmailMessage) -> Account:
        """The account that the message names, else that of the call."""
        named = account_of(email)
        if named is None:
            return self.default
        if isinstance(named, Account):
            return resolve_account(named, named_by="outbox_account")
        if named not in self._found:
            self._found[named] = resolve_account(named, named_by="outbox_account")
        return self._found[named]

    def largest(self, account: Account) -> int:
        """See ``largest_size``."""
        if account.id not in self._largest:
            self._largest[account.id] = largest_size(account)
        return self._largest[account.id]


def insert_drafts(drafts: Sequence[Draft], *, clock: Clock) -> list[OutboxMessage]:
    """Queue drafts in one transaction, and wake a drain on commit where one of them is due."""
    if not drafts:
        return []
    written, new = _write(drafts, clock=clock)
    if new and any(is_due(draft, clock) for draft in drafts):
        wake_on_commit()
    return written


@refusing_text
@retried
def _write(drafts: Sequence[Draft], *, clock: Clock) -> tuple[list[OutboxMessage], int]:
    with atomic():
        return insert_many(drafts, clock=clock)


def _draft(given: Mapping[str, Any] | EmailMessage, *, accounts: _Accounts, now: datetime) -> Draft:
    if not isinstance(given, Mapping):
        draft = draft_from_email(given, account=accounts.of(given), now=now)
        check_limits(draft, largest=accounts.largest(draft.account))
        return draft
    account = accounts.default
    if is_plain(given) and "account" not in given:
        return plain_draft(given, account=account, now=now, largest=accounts.largest(account), version="")
    try:
        message = EnqueueArguments(account=account.id, **given)
    except TypeError as error:
        problem = str(error).rpartition("() ")[2]  # without the name of the dataclass
        raise InvalidMessage(f"enqueue_many: in a message: {problem}", code="invalid_option") from error
    return compose(message, account=account, now=message.now or now, largest=accounts.largest(account))
