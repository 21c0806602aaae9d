"""Why a message or an account waits, and when it goes on: one sentence each, for the status page and the admin.

Pure: what is known is handed in as values (``status`` reads them), and so is the time.  Sentences are translated when
they are made, in the language and the time zone that are active then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from prx_email_django.rules.obstacles import Obstacle, ObstacleKind, ReachedLimit
from prx_email_django.rules.pauses import is_in_force
from prx_email_django.states import ErrorCode, Status

#: What is read in the words of servers, of OpenSSL and of the operating system, and what may help.
_ADVICE = (
    (
        "WRONG_VERSION_NUMBER",
        gettext_lazy("This port does not begin with TLS: choose STARTTLS, or the server’s port for TLS (465)."),
    ),
    (
        "local issuer certificate|self.signed",
        gettext_lazy("This machine does not know who signed the certificate: name the authority in TLS_CA_FILE."),
    ),
    (
        "(hostname|address) mismatch",
        gettext_lazy("The certificate is another host’s: write the host as the certificate names it."),
    ),
    (
        "certificate has expired",
        gettext_lazy("The server’s certificate is out of date: tell whoever keeps the server."),
    ),
    (
        "name or service not known|nodename nor servname|name resolution|no address associated",
        gettext_lazy("There is no such host in DNS: look for a typing mistake."),
    ),
    (
        "connection (refused|reset)|unreachable|no route",
        gettext_lazy("No mail server answers at this host and port, or a firewall is between."),
    ),
    (
        "no answer in time|not done within",
        gettext_lazy("The server stays silent: a port for TLS (465) does so where STARTTLS is chosen, a firewall too."),
    ),
    ("invalid_grant", gettext_lazy("The refresh token is dead: somebody must sign in again and store a new one.")),
    (
        "no usable authentication",
        gettext_lazy("The server wants no login here, or only after TLS: look at security and authentication."),
    ),
    (
        "authentication refused",
        gettext_lazy("Type user and password (or token) anew; many providers want an app password or OAuth."),
    ),
)


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in force; ``until`` None: until somebody resumes."""

    reason: str
    until: datetime | None = None
    by_person: bool = True


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What decides whether an account may send now."""

    name: str
    is_active: bool = True
    #: The pause of the whole outbox.
    outbox: Pause | None = None
    #: The account's own.
    pause: Pause | None = None
    reached: tuple[ReachedLimit, ...] = ()
    connections: int = 0
    max_connections: int = 1
    #: The worker's last trouble in a row without a pause yet.
    connection_failures: int = 0
    #: A worker's pause is over, and nothing has gone since: one message tries before the others.
    probing: bool = False


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What decides whether a message may be sent now."""

    status: str
    next_attempt_at: datetime | None = None
    claim_expires_at: datetime | None = None
    sent_at: datetime | None = None
    expires_at: datetime | None = None
    #: When the message will have been due for longer than ``GIVE_UP_AFTER``.
    gives_up_at: datetime | None = None
    error_code: str = ""
    error: str = ""
    retries: int = 0
    attempts: int = 0


def pause_in_force(reason: str, until: datetime | None, *, by_person: bool, now: datetime) -> Pause | None:
    """The pause that these columns mean, None where there is none or it is over."""
    return Pause(reason, until, by_person) if is_in_force(reason, until, now=now) else None


def account_sentence(account: AccountFacts, *, now: datetime) -> str:
    """Why nothing of this account goes out now, and when it does; or that it may send."""
    return obstacle(account, now=now) or _ready(account)


def obstacle(account: AccountFacts, *, now: datetime) -> str:
    """What keeps an account from sending, the most lasting first; empty where nothing does."""
    if not account.is_active:
        return _("the account is switched off, until a person switches it on")
    if account.outbox is not None:
        return _("everything is %(paused)s") % {"paused": _paused(account.outbox, now)}
    if account.pause is not None:
        return _paused(account.pause, now)
    if account.reached:
        last = max(account.reached, key=lambda one: one.free_at)
        return _limit_reached(last, now)
    if account.probing and account.connections:
        return _("one message is being tried first, after a pause")
    if account.connections >= account.max_connections:
        return _all_in_use(account.max_connections)
    return ""


def _limit_reached(reached: ReachedLimit, now: datetime) -> str:
    return _("limit %(limit)s reached, goes on at %(time)s") % {
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
    return _("no connection or permit was free at that moment")


def advice(reason: str) -> str:
    """What may help against the reason of a pause; empty: nothing is known."""
    for pattern, words in _ADVICE:
        if re.search(pattern, reason, re.IGNORECASE):
            return str(words)
    return ""


def message_sentence(message: MessageFacts, account: AccountFacts, *, now: datetime) -> str:
    """Where a message stands, why it waits, and when it goes on."""
    if message.status == Status.SENT:
        return _sent(message, now)
    if message.status == Status.SENDING:
        sentence = _sending(message, now)
    elif message.next_attempt_at is None:
        sentence = _at_rest(message)
    elif message.next_attempt_at > now:
        sentence = _not_due(message, message.next_attempt_at, now)
    else:
        sentence = _due(message, account, now)
    if message.attempts > message.retries:
        sentence += "; " + _("it may have been delivered")
    return sentence


def at(moment: datetime, now: datetime) -> str:
    """An instant in the active time zone: the time alone where it is today, to the second where it is that close."""
    local = timezone.localtime(moment)
    precise = abs(moment - now) < timedelta(minutes=2)
    time = formats.date_format(local, "H:i:s" if precise else "H:i")
    return time if local.date() == timezone.localtime(now).date() else f"{local.date().isoformat()} {time}"


def _ready(account: AccountFacts) -> str:
    if account.connection_failures:
        return ngettext(
            "may send; the last connection failed",
            "may send; the last %(count)d connections failed",
            account.connection_failures,
        ) % {"count": account.connection_failures}
    return _("may send")


def _paused(pause: Pause, now: datetime) -> str:
    if pause.until is None:
        return _("paused until a person resumes it: %(reason)s") % {"reason": pause.reason}
    words = {"time": at(pause.until, now), "reason": pause.reason}
    if pause.by_person:
        return _("paused by a person until %(time)s: %(reason)s") % words
    return _("paused until %(time)s: %(reason)s") % words


def _sent(message: MessageFacts, now: datetime) -> str:
    words = {"when": _when(message.sent_at, now), "answer": message.error}
    if message.error_code == ErrorCode.RECIPIENTS_REFUSED and message.error:
        return _("accepted by the server%(when)s, but not for everybody: %(answer)s") % words
    return _("accepted by the server%(when)s") % words


def _when(moment: datetime | None, now: datetime) -> str:
    return _(" at %(time)s") % {"time": at(moment, now)} if moment else ""


def _sending(message: MessageFacts, now: datetime) -> str:
    if message.claim_expires_at is not None and message.claim_expires_at <= now:
        return _("its worker was lost while sending: the next drain tries it again or puts it at rest")
    return _("being sent")


def _reason(message: MessageFacts) -> str:
    """The error in words: its code's label, and what was said."""
    if not message.error_code:
        return message.error
    label = str(ErrorCode(message.error_code).label) if message.error_code in ErrorCode.values else message.error_code
    return f"{label} ({message.error})" if message.error else label


def _at_rest(message: MessageFacts) -> str:
    if message.status == Status.PENDING:
        return _("not due by itself, until a person retries it")
    reason = _reason(message)
    if not reason:
        return _("at rest, until a person retries it")
    return _("at rest: %(reason)s, until a person retries it") % {"reason": reason}


def _not_due(message: MessageFacts, due: datetime, now: datetime) -> str:
    if not message.error_code and not message.attempts:
        return _("to be sent at %(time)s") % {"time": at(due, now)}
    words = {"time": at(due, now), "reason": _reason(message)}
    return _("next attempt at %(time)s: %(reason)s") % words


def _due(message: MessageFacts, account: AccountFacts, now: datetime) -> str:
    ends = [moment for moment in (message.expires_at, message.gives_up_at) if moment is not None]
    if ends and min(ends) <= now:
        return _("too old: the next drain puts it at rest")
    if account.is_active and account.outbox is None and account.pause is not None:
        return _("its account is %(paused)s") % {"paused": _paused(account.pause, now)}
    return obstacle(account, now=now) or _("due, waiting for a worker")
