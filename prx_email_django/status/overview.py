"""What is wrong with the outbox, where, since when: the verdict and its causes, for the operator's page.

``outbox_status`` has the figures; here they become one sentence and a list of causes, the worst first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django.models import PauseRecord
from prx_email_django.models.activity import LOOP, WorkerState
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.status.facts import suspicious
from prx_email_django.status.reasons import at, clause
from prx_email_django.status.stored_words import shown

#: A due message that has waited for longer is late.
LATE_AFTER = timedelta(minutes=10)
#: A worker that has not been seen for longer does not live.
ALIVE_FOR = timedelta(minutes=1)
#: No worker lives if none was seen for longer: a schedule begins a drain once a minute.
SILENT_AFTER = timedelta(minutes=2)
#: A lost worker is reported for so long where another worker lives.
LOST_FOR = timedelta(hours=1)
#: Causes of one verdict.
MAX_CAUSES = 5


class Level(StrEnum):
    """How bad it is; also the colour."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong, and what a person may do about it."""

    level: Level
    text: str
    #: The account that it is about; empty: the whole outbox.
    account: str = ""
    #: It is a pause, which a button can end.
    can_resume: bool = False
    #: The database is a copy, which a button can adopt.
    can_adopt: bool = False
    #: A person set the pause, and its reason is that person's.
    by_person: bool = False
    #: Kind of messages that it is about, as the list's filter names them: ``sending``, ``doubt``.
    of_messages: str = ""
    #: It is about workers.
    of_workers: bool = False
    #: What a person can do where no button does it.
    hint: str = ""
    #: The reason as it is stored, for ``advice``.
    stored: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the whole outbox in one sentence."""

    level: Level
    text: str
    causes: tuple[Cause, ...]
    #: How many more causes there are.
    more: int = 0


def verdict_of(figures: Mapping[str, Any], *, now: datetime) -> Verdict:
    """Return the verdict on the figures of ``outbox_status``; two queries for the history of pauses."""
    causes = sorted(_causes(figures, now), key=lambda cause: cause.level != Level.RED)
    age = figures["oldest_due_seconds"] or 0
    is_late = age > LATE_AFTER.total_seconds()
    sentences = [*stopped(figures), _waiting_sentence(figures, age, is_late=is_late), worker_sentence(figures, now)]
    if figures["needs_person"]:
        count = figures["needs_person"]
        text = ngettext("%(count)d message needs a person.", "%(count)d messages need a person.", count)
        sentences.append(text % {"count": count})
    level = Level.GREEN
    if causes or figures["needs_person"]:
        level = Level.AMBER
    if is_late or any(cause.level is Level.RED for cause in causes):
        level = Level.RED
    shown = tuple(causes[:MAX_CAUSES])
    return Verdict(level, " ".join(filter(None, sentences)), shown, len(causes) - len(shown))


def span(seconds: float) -> str:
    """Return a length of time in words: “48 min”, “3 h 20 min”, “2 d”."""
    total = int(seconds)
    if total < 60:
        return _("%(count)d s") % {"count": total}
    if total < 3600:
        return _("%(count)d min") % {"count": total // 60}
    if total < 2 * 86400:
        hours, minutes = total // 3600, total % 3600 // 60
        return (
            _("%(hours)d h %(minutes)d min") % {"hours": hours, "minutes": minutes}
            if minutes
            else (_("%(hours)d h") % {"hours": hours})
        )
    return _("%(count)d d") % {"count": total // 86400}


def is_alive(worker: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether a worker of ``worker_figures`` was seen a moment ago."""
    return now - datetime.fromisoformat(worker["last_seen_at"]) <= ALIVE_FOR


def is_hung(worker: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether a worker was seen at work, and is seen no more: it hangs or was killed."""
    return bool(worker["state"] == WorkerState.WORKING) and not is_alive(worker, now=now)


def is_lost(worker: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether a worker hangs or was killed: a loop says when it has ended, any other idle worker has ended."""
    is_silent_loop = worker["kind"] == LOOP and worker["state"] == WorkerState.IDLE and not is_alive(worker, now=now)
    return is_silent_loop or is_hung(worker, now=now)


def _is_replaced(worker: Mapping[str, Any], others: Iterable[Mapping[str, Any]], now: datetime) -> bool:
    """Whether a worker that had no message was lost, and one of its kind was started since and lives."""
    last_seen_at = datetime.fromisoformat(worker["last_seen_at"])
    return worker["state"] == WorkerState.IDLE and any(
        other["kind"] == worker["kind"]
        and is_alive(other, now=now)
        and datetime.fromisoformat(other["started_at"]) > last_seen_at
        for other in others
    )


def silence(figures: Mapping[str, Any], *, now: datetime) -> timedelta | None:
    """Return for how long no worker has been seen; None: none was ever seen."""
    seen = [datetime.fromisoformat(worker["last_seen_at"]) for worker in figures["workers"]]
    if figures["last_drain_at"]:
        seen.append(datetime.fromisoformat(figures["last_drain_at"]))
    return max(timedelta(0), now - max(seen)) if seen else None


def stopped(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say what stops every account: no other figure explains as much."""
    if not figures["instance_matches"]:
        yield _("This database belongs to another instance: nothing is sent from here.")
    elif figures["paused"]:
        yield _("Everything is paused.")


def _waiting_sentence(figures: Mapping[str, Any], age: float, *, is_late: bool) -> str:
    words = {"due": figures["due"], "age": span(age), "sent": _sent(figures)}
    if is_late:
        return _("Late: %(due)d due, the oldest for %(age)s.") % words
    if figures["due"]:
        return _("%(due)d due, the oldest for %(age)s; %(sent)d sent in the last hour.") % words
    return _("Nothing is late; %(sent)d sent in the last hour.") % words


def _sent(figures: Mapping[str, Any]) -> int:
    return sum(account["sent_last_hour"] for account in figures["accounts"])


def worker_sentence(figures: Mapping[str, Any], now: datetime) -> str:
    """Say that nobody works, and since when; empty while a worker lives, or nothing is due."""
    return nobody_works(figures, now) if figures["due"] else ""


def nobody_works(figures: Mapping[str, Any], now: datetime) -> str:
    """The same, whether something is due or not; reads ``workers`` and ``last_drain_at`` of the figures only."""
    quiet = silence(figures, now=now)
    if quiet is None:
        return _("No worker has ever been seen.")
    if quiet <= SILENT_AFTER:
        return ""
    return _("No worker for %(age)s.") % {"age": span(quiet.total_seconds())}


def _causes(figures: Mapping[str, Any], now: datetime) -> Iterator[Cause]:
    if not figures["instance_matches"]:
        text = _("The database belongs to another instance, “%(instance)s”: nothing is sent until it is adopted.")
        hint = _(
            "If it is the original, set INSTANCE to that name again. If it is a copy that must send, adopt it: that "
            "puts every unsent message at rest first. The command outbox_adopt does the same."
        )
        yield Cause(Level.RED, text % {"instance": figures["instance"]}, hint=hint, can_adopt=True)
    for found in figures["unusable_accounts"]:
        yield Cause(Level.RED, _("Mail is lost when it is queued: %(problem)s.") % {"problem": found["problem"]})
    records = {record.account_id: record for record in PauseRecord.objects.filter(ended_at__isnull=True)}
    if figures["paused"]:
        reason = figures["paused"]["reason"]
        text = _paused_text(_("everything"), records.get(None), reason, now)
        yield Cause(Level.RED, text, can_resume=True, by_person=True)
    for account in figures["accounts"]:
        yield from _causes_of(account, records.get(account["id"]), now)
    yield from lost_workers(figures, now)
    if figures["in_doubt"]:
        text = ngettext(
            "%(count)d failed message may have been delivered.",
            "%(count)d failed messages may have been delivered.",
            figures["in_doubt"],
        )
        yield Cause(Level.AMBER, text % {"count": figures["in_doubt"]}, of_messages="doubt")


def _causes_of(account: Mapping[str, Any], record: PauseRecord | None, now: datetime) -> Iterator[Cause]:
    name, is_late = account["name"], (account["oldest_due_seconds"] or 0) > LATE_AFTER.total_seconds()
    cause = Cause(Level.RED if is_late else Level.AMBER, "", account=name)
    if account["pause_code"]:
        by_person = account["pause_code"] == "person"
        reason = account["pause_reason"] if by_person else shown(account["pause_reason"])
        text = _paused_text(name, record, reason, now)
        cause = replace(cause, can_resume=True, by_person=by_person, stored=account["pause_reason"])
    elif not account["is_active"]:
        text = _("%(name)s is switched off") % {"name": name} if account["due"] else ""
    elif account["problem"]:
        text = _("%(name)s cannot work: %(problem)s") % {"name": name, "problem": clause(account["problem"])}
        cause = replace(cause, stored=account["problem"])
    elif account["last_trouble"]:
        text = _("%(name)s: %(trouble)s") % {"name": name, "trouble": shown(account["last_trouble"])}
        cause = replace(cause, stored=account["last_trouble"])
    elif account["refused_in_a_row"] >= suspicious():
        count = account["refused_in_a_row"]
        words = ngettext(
            "%(name)s: the last message was refused", "%(name)s: the last %(count)d messages were refused", count
        )
        text = words % {"name": name, "count": count}
    elif is_late and reached_limits(account):
        text = f"{name}: {account['why']}"
    else:
        text = ""
    if text:
        yield replace(cause, text=_and_waiting(text, account["due"] + account["deferred"]))


def reached_limits(account: Mapping[str, Any]) -> bool:
    """Whether a rate limit of an account of the figures keeps it from sending."""
    return any(limit["used"] >= limit["count"] for limit in account["limits"])


def _paused_text(name: str, record: PauseRecord | None, reason: str, now: datetime) -> str:
    if record is None:
        return _("%(name)s is paused: %(reason)s") % {"name": name, "reason": reason}
    words = {"name": name, "since": at(record.begun_at, now), "reason": reason, "by": record.by}
    if record.code == Trouble.REFUSING:
        return _("%(name)s: every message is refused since %(since)s: %(reason)s") % words
    if record.code != "person":
        return _("%(name)s is paused since %(since)s: %(reason)s") % words
    if record.by:
        return _("%(name)s is paused by %(by)s since %(since)s: %(reason)s") % words
    return _("%(name)s is paused by a person since %(since)s: %(reason)s") % words


def _and_waiting(text: str, waits: int) -> str:
    if not waits:
        return text
    return ngettext("%(text)s; %(count)d waits", "%(text)s; %(count)d wait", waits) % {"text": text, "count": waits}


def lost_workers(figures: Mapping[str, Any], now: datetime) -> Iterator[Cause]:
    """Say which workers hang or were killed and since when, and how many messages they had."""
    is_somebody_alive = any(is_alive(worker, now=now) for worker in figures["workers"])
    lost = [
        worker
        for worker in figures["workers"]
        if is_lost(worker, now=now)
        and not (is_somebody_alive and now - datetime.fromisoformat(worker["last_seen_at"]) > LOST_FOR)
        and not _is_replaced(worker, figures["workers"], now)
    ]
    if lost:
        text = ngettext(
            "The worker %(name)s hangs or was killed: it did not end, and has not been seen for %(age)s.",
            "%(count)d workers hang or were killed: the last, %(name)s, has not been seen for %(age)s.",
            len(lost),
        )
        age = span((now - datetime.fromisoformat(lost[0]["last_seen_at"])).total_seconds())
        words = {"count": len(lost), "name": lost[0]["name"], "age": age}
        hint = _("Look for its process, and end it if it hangs: another worker takes its messages over.")
        yield Cause(Level.AMBER, text % words, of_workers=True, hint=hint)
    if figures["expired_leases"]:
        text = ngettext(
            "%(count)d message of a lost worker waits for a drain.",
            "%(count)d messages of lost workers wait for a drain.",
            figures["expired_leases"],
        )
        yield Cause(Level.AMBER, text % {"count": figures["expired_leases"]}, of_messages="sending")
