"""Sentences that say why a message or an account waits, and when sending continues.  Commands and the admin show them.

No function makes a query: ``status.facts`` reads the database and passes rows, facts and the time.  A sentence is
translated when it is made, in the language and the time zone that are active at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django.conf import outbox_settings
from prx_email_django.models import OutboxMessage
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind, ReachedLimit
from prx_email_django.rules.pauses import is_in_force
from prx_email_django.states import ErrorCode, Status
from prx_email_django.status.stored_words import shown


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that is in force; ``until`` None: until a person resumes."""

    reason: str
    until: datetime | None = None
    by_person: bool = True
    #: ``refusing``, ``auth`` and so on; ``person``.
    code: str = ""


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What decides whether an account may send now."""

    name: str
    is_active: bool = True
    #: It is inactive because nobody has signed in yet.
    awaits_sign_in: bool = False
    #: The database belongs to another ``INSTANCE``.
    is_copy: bool = False
    #: The pause of the whole outbox.
    outbox: Pause | None = None
    #: The pause of this account.
    pause: Pause | None = None
    reached: tuple[ReachedLimit, ...] = ()
    #: Each rate limit, how much of it is spent, and how much it allows.
    used: tuple[tuple[str, int, int], ...] = ()
    token_expires_at: datetime | None = None
    connections: int = 0
    max_connections: int = 1
    #: What keeps it from ever connecting: a field that validation refuses, or credentials that cannot be decrypted.
    problem: str = ""
    #: What was wrong last, until a transaction is completed; also while no pause is in force.
    last_trouble: str = ""
    #: Consecutive failed connections that have not caused a pause yet.
    connection_failures: int = 0
    #: Messages that were refused since the last accepted one.
    refused_in_a_row: int = 0
    #: A pause that a worker set has ended and nothing has been sent since: one message is tried before the others.
    probing: bool = False


def pause_in_force(
    reason: str, until: datetime | None, *, by_person: bool, now: datetime, code: str = ""
) -> Pause | None:
    """Return the pause that these columns describe, or None if there is no pause or it has ended."""
    return Pause(reason, until, by_person, code) if is_in_force(reason, until, now=now) else None


def account_sentence(account: AccountFacts, *, now: datetime) -> str:
    """Say why the account sends nothing now and when it continues, or that it may send."""
    return obstacle(account, now=now) or _ready(account)


def obstacle(account: AccountFacts, *, now: datetime) -> str:
    """Say what keeps an account from sending, the longest-lasting reason first; empty if nothing does."""
    if account.is_copy:
        return _("the database belongs to another instance: nothing is sent until it is adopted")
    if account.awaits_sign_in:
        return _("the account is inactive, until a person signs in or activates it")
    if not account.is_active:
        return _("the account is inactive, until a person activates it")
    if account.outbox is not None:
        return _("everything is %(paused)s") % {"paused": _paused(account.outbox, now)}
    if account.pause is not None:
        return _paused(account.pause, now)
    if account.problem:
        return _("it cannot work: %(problem)s") % {"problem": clause(account.problem)}
    if account.reached:
        last = max(account.reached, key=lambda limit: limit.free_at)
        return _limit_reached(last, now)
    if account.probing and account.connections:
        return _("one message is being tried first, after a pause")
    if account.connections >= account.max_connections:
        return _all_in_use(account.max_connections)
    return ""


def clause(text: str) -> str:
    """Return a stored text without its full stop: more words of the sentence follow."""
    return shown(text).rstrip(".。")


def lasting_obstacle(account: AccountFacts, *, now: datetime) -> str:
    """``obstacle`` without what is over in a moment: that all connections are in use, and a limit per second."""
    reached = tuple(limit for limit in account.reached if not limit.is_short)
    return obstacle(replace(account, connections=0, reached=reached), now=now)


def _limit_reached(reached: ReachedLimit, now: datetime) -> str:
    return _("limit %(limit)s reached, sending continues at %(time)s") % {
        "limit": reached.limit,
        "time": at(reached.free_at, now),
    }


def _all_in_use(count: int) -> str:
    return ngettext("its %(count)d connection is in use", "all %(count)d connections are in use", count) % {
        "count": count
    }


def obstacle_sentence(obstacle: Obstacle, *, now: datetime) -> str:
    """Why no attempt could be made, from the reason that the refusal gave."""
    match obstacle.kind:
        case ObstacleKind.RATE if obstacle.reached is not None:
            return _limit_reached(obstacle.reached, now)
        case ObstacleKind.RECIPIENTS:
            return _("too little is left of %(limits)s for all its recipients") % {"limits": obstacle.limits}
        case ObstacleKind.PROBE:
            return _("one message is being tried first, after a pause")
        case ObstacleKind.CONNECTIONS:
            return _all_in_use(obstacle.max_connections)
        case ObstacleKind.SLOW:
            return _("the server asks to send more slowly; a drain will try the message")
        case ObstacleKind.LEASE_ENDED:
            return _("the worker was interrupted for too long; a drain will try the message")
    return _("no connection or permit was free at that moment")


def message_sentence(message: OutboxMessage, account: AccountFacts, *, now: datetime) -> str:
    """Say what the state of a message is, why it waits, and when the next attempt is; makes no query."""
    if message.status == Status.SENT:
        return _sent(message, now)
    if message.status == Status.SENDING:
        sentence = _sending(message, now)
    elif message.next_attempt_at is None:
        sentence = _at_rest(message)
    elif account.is_copy:
        sentence = obstacle(account, now=now)
    elif message.next_attempt_at > now:
        sentence = _not_due(message, message.next_attempt_at, now)
    else:
        sentence = _due(message, account, now)
    if message.attempts > message.retries:
        sentence += "; " + _("it may have been delivered")
    return sentence


def at(moment: datetime, now: datetime) -> str:
    """Format an instant in the active time zone, which is named.

    Without the date if it is today, with seconds within two minutes.
    """
    local = timezone.localtime(moment)
    precise = abs(moment - now) < timedelta(minutes=2)
    time = formats.date_format(local, "H:i:s T" if precise else "H:i T")
    return time if local.date() == timezone.localtime(now).date() else f"{local.date().isoformat()} {time}"


def _ready(account: AccountFacts) -> str:
    """Say that the account may send, and what was wrong last if nothing has been sent since."""
    if account.connection_failures:
        words = ngettext(
            "may send; the last connection failed",
            "may send; the last %(count)d connections failed",
            account.connection_failures,
        ) % {"count": account.connection_failures}
        return f"{words} ({shown(account.last_trouble)})" if account.last_trouble else words
    if account.last_trouble:
        return _("may send; one message is tried first, since nothing was sent after this: %(trouble)s") % {
            "trouble": shown(account.last_trouble)
        }
    return _("may send")


def _paused(pause: Pause, now: datetime) -> str:
    # A person's own words stay as they are.
    reason = pause.reason if pause.by_person else shown(pause.reason)
    if pause.until is None:
        return _("paused until a person resumes it: %(reason)s") % {"reason": reason}
    words = {"time": at(pause.until, now), "reason": reason}
    if pause.by_person:
        return _("paused by a person until %(time)s: %(reason)s") % words
    return _("paused until %(time)s: %(reason)s") % words


def _sent(message: OutboxMessage, now: datetime) -> str:
    words = {"when": _when(message.sent_at, now), "answer": shown(message.last_error)}
    is_partial = message.last_error_code == ErrorCode.RECIPIENTS_REFUSED and message.last_error
    if message.is_confirmed and is_partial:
        return _("confirmed by a person%(when)s, but not for every recipient: %(answer)s") % words
    if message.is_confirmed:
        return _("confirmed by a person%(when)s") % words
    if is_partial:
        return _("accepted by the server%(when)s, but not for every recipient: %(answer)s") % words
    return _("accepted by the server%(when)s") % words


def _when(moment: datetime | None, now: datetime) -> str:
    return _(" at %(time)s") % {"time": at(moment, now)} if moment else ""


def _sending(message: OutboxMessage, now: datetime) -> str:
    if message.claim_has_run_out(now):
        return _("the worker was lost while it was sending: the next drain will try again or put the message at rest")
    return _("being sent")


def _reason(message: OutboxMessage) -> str:
    """Return the label of the error code, and the error text."""
    error = shown(message.last_error)
    if not message.last_error_code:
        return error
    label = (
        str(ErrorCode(message.last_error_code).label)
        if message.last_error_code in ErrorCode.values
        else message.last_error_code
    )
    return f"{label} ({error})" if error else label


def _at_rest(message: OutboxMessage) -> str:
    if message.status == Status.PENDING:
        return _("no attempt is planned, until a person retries it")
    reason = _reason(message)
    if not reason:
        return _("at rest, until a person retries it")
    return _("at rest: %(reason)s, until a person retries it") % {"reason": reason}


def _not_due(message: OutboxMessage, due: datetime, now: datetime) -> str:
    if not message.last_error_code and not message.attempts:
        return _("to be sent at %(time)s") % {"time": at(due, now)}
    words = {"time": at(due, now), "reason": _reason(message)}
    return _("next attempt at %(time)s: %(reason)s") % words


def _due(message: OutboxMessage, account: AccountFacts, now: datetime) -> str:
    is_given_up = now - message.due_since >= outbox_settings().give_up_after
    if is_given_up or (message.expires_at is not None and message.expires_at <= now):
        return _("expired: the next drain will put it at rest")
    if account.is_active and account.outbox is None and account.pause is not None:
        return _("its account is %(paused)s") % {"paused": _paused(account.pause, now)}
    return obstacle(account, now=now) or _("due, waiting for a worker")
