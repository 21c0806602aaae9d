"""enqueue: the message is committed or rolled back with the caller's work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prx_email_django.api.arguments import with_parameters_of
from prx_email_django.api.wake import wake_on_commit
from prx_email_django.compose.accounts import AccountRef, resolve_account
from prx_email_django.compose.copies import copy_draft, resend_draft
from prx_email_django.compose.message import MessageArguments, check_limits, compose, largest_size
from prx_email_django.compose.validation import check_instant
from prx_email_django.django_mail.draft import draft_from_email
from prx_email_django.django_mail.options import account_of
from prx_email_django.errors import InvalidMessage, OutboxError, RetryRejected
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import atomic, clock_for, refusing_text, retried
from prx_email_django.store.insert import Draft, insert, insert_many

if TYPE_CHECKING:
    from django.core.mail import EmailMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueArguments(MessageArguments):
    """The parameters of ``enqueue``."""

    send_at: datetime | None = None


@with_parameters_of(EnqueueArguments)
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
    account = resolve_account(arguments.account)
    check_instant("now", arguments.now)
    clock = clock_for(arguments.now)
    draft = compose(arguments, account=account, now=clock.now)
    message, is_new = insert(draft, clock=clock)
    if is_new and draft.due_at <= clock.now:
        wake_on_commit()
    return message


def enqueue_drafts(drafts: Sequence[Draft], *, now: datetime | None = None) -> list[OutboxMessage]:
    """Queue drafts that were made elsewhere (the email backend), all or none, in a few statements."""
    largest = {
        account.pk: largest_size(account) for account in {draft.account.pk: draft.account for draft in drafts}.values()
    }
    for draft in drafts:
        check_limits(draft, largest=largest[draft.account.pk])
    return _insert(drafts, clock=clock_for(now))


def enqueue_many(
    messages: Iterable[Mapping[str, Any] | EmailMessage], *, account: AccountRef | None = None
) -> list[OutboxMessage]:
    """Queue many messages, all or none: dicts of ``enqueue``'s arguments, or Django's ``EmailMessage`` objects.

    An ``EmailMessage`` may name another account (``outbox_account``), which wins as in the email backend; its
    ``outbox_id`` is set to the key of its row.

    Raises:
        InvalidMessage, AttachmentRejected, AccountUnavailable: nothing has been written; a note on the error
            (``__notes__``) says which of the messages it was, counted from 0.
    """
    found = _Accounts(account)
    clock = clock_for(None)
    drafts: list[Draft] = []
    emails: list[EmailMessage | None] = []
    for number, message in enumerate(messages):
        try:
            drafts.append(_draft(message, accounts=found, now=clock.now))
        except OutboxError as error:
            error.add_note(f"enqueue_many: message {number}, counted from 0; none of them has been queued")
            raise
        emails.append(None if isinstance(message, Mapping) else message)
    rows = _insert(drafts, clock=clock)
    for row, email in zip(rows, emails, strict=True):
        if email is not None:
            email.outbox_id = row.pk  # type: ignore[attr-defined]
    return rows


def resend_outbox(outbox_id: int, *, idempotency_key: str | None = None, now: datetime | None = None) -> OutboxMessage:
    """Queue the mail of a stored message once more, to all its recipients, as a new message with a new Message-ID.

    The stored message stays as it is.  ``idempotency_key`` as for ``enqueue``.

    Raises:
        RetryRejected: ``not_found``; ``not_retriable`` where the content is sensitive, was removed, or is altered.
        AccountUnavailable: the account is switched off.
    """
    check_instant("now", now)
    clock = clock_for(now)
    draft = resend_draft(_stored(outbox_id), now=clock.now)
    return _insert([replace(draft, idempotency_key=idempotency_key)], clock=clock)[0]


def copy_outbox(
    outbox_id: int, *, to: str, idempotency_key: str | None = None, now: datetime | None = None
) -> OutboxMessage:
    """Queue a marked copy of a stored message to ``to`` alone, so that a person can see how the mail looks.

    ``idempotency_key`` as for ``enqueue``.

    Raises:
        InvalidMessage: ``empty_to``, ``invalid_address``.
        RetryRejected: ``not_found``; ``not_retriable`` where the content was removed or is altered.
        AccountUnavailable: the account is switched off.
    """
    check_instant("now", now)
    clock = clock_for(now)
    draft = copy_draft(_stored(outbox_id), to=to, now=clock.now)
    return _insert([replace(draft, idempotency_key=idempotency_key)], clock=clock)[0]


def _stored(outbox_id: int) -> OutboxMessage:
    message = OutboxMessage.objects.select_related("account", "raw").filter(pk=outbox_id).first()
    if message is None:
        raise RetryRejected(f"there is no message {outbox_id}", code="not_found")
    return message


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
        if account.pk not in self._largest:
            self._largest[account.pk] = largest_size(account)
        return self._largest[account.pk]


def _insert(drafts: Sequence[Draft], *, clock: Clock) -> list[OutboxMessage]:
    if not drafts:
        return []
    written, new = _write(drafts, clock=clock)
    if new and any(draft.due_at <= clock.now for draft in drafts):
        wake_on_commit()
    return written


@refusing_text()
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
    try:
        message = EnqueueArguments(account=account, **given)
    except TypeError as error:
        raise InvalidMessage(f"enqueue_many: {error}", code="invalid_option") from error
    return compose(message, account=account, now=message.now or now, largest=accounts.largest(account))
