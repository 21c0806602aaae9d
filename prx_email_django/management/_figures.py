"""The lines of ``outbox_status``: the whole outbox, and one account."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.color import Style
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django.management._common import age, columns, padded
from prx_email_django.status.advice import advice
from prx_email_django.status.figures import judge
from prx_email_django.status.overview import lost_workers

DEFAULT_MAX_AGE = "10m"
#: Figure -> its name, as it is printed.
_LINES = {
    "due": gettext_noop("due"),
    "waiting": gettext_noop("waiting"),
    "sending": gettext_noop("sending"),
    "at_rest": gettext_noop("at rest"),
    "needs_person": gettext_noop("need a person"),
    "unknown": gettext_noop("unknown"),
    "expired_leases": gettext_noop("expired leases"),
    "last_drain": gettext_noop("last drain"),
}
_UNITS = (
    (gettext_noop("%(count)d days"), 86_400),
    (gettext_noop("%(count)d h"), 3_600),
    (gettext_noop("%(count)d min"), 60),
)


def outbox_lines(figures: dict[str, Any], style: Style) -> Iterator[str]:
    """Yield the figures, a line for each account, and what a person must know."""
    oldest = figures["oldest_due_seconds"]
    lines = {
        "due": f"{figures['due']}"
        if oldest is None
        else _("%(due)s, the oldest for %(oldest)s") % {"due": figures["due"], "oldest": _span(oldest)},
        **{key: figures[key] for key in ("waiting", "sending", "at_rest", "needs_person", "unknown", "expired_leases")},
        "last_drain": _ago(figures["last_drain_at"], figures["at"]),
    }
    names = {key: _(name) for key, name in _LINES.items()}
    width = max(map(columns, names.values())) + 2
    for key, value in lines.items():
        yield f"{padded(names[key], width)}{value}"
    for account in figures["accounts"]:
        yield from account_lines(account, indent="  ")
    for found in figures["unusable_accounts"]:
        yield style.ERROR(found["problem"])
    if not figures["accounts"]:
        yield _('There is no account. Declare an account in PRX_EMAIL["ACCOUNTS"], or add it in the admin.')
    for cause in lost_workers(figures, datetime.fromisoformat(figures["at"])):
        yield style.WARNING(cause.text)
    if figures["paused"]:
        yield style.WARNING(_paused_line(figures["paused"]))
    if not figures["instance_matches"]:
        yield style.ERROR(judge(figures, max_age=age(DEFAULT_MAX_AGE))[1])


def account_lines(figures: dict[str, Any], *, indent: str = "") -> Iterator[str]:
    """Yield why the account waits, and what a person may do about it."""
    yield _("%(name)s: %(due)s due, %(waiting)s waiting; %(why)s") % figures
    stored = figures["pause_reason"] if figures["pause_code"] != "person" else ""
    if hint := advice(stored or figures["problem"] or figures["last_trouble"]) or advice(figures["why"]):
        yield f"{indent}{hint}"


def _paused_line(paused: dict[str, Any]) -> str:
    if paused["until"]:
        return _("everything is paused until %(until)s: %(reason)s") % paused
    return _("everything is paused until a person resumes it: %(reason)s") % paused


def _ago(moment: str | None, now: str) -> str:
    if moment is None:
        return _("never")
    then = datetime.fromisoformat(moment)
    passed = _span((datetime.fromisoformat(now) - then).total_seconds())
    return _("%(time)s, %(passed)s ago") % {
        "time": f"{timezone.localtime(then):%Y-%m-%d %H:%M:%S}",
        "passed": passed,
    }


def _span(seconds: float) -> str:
    """Return a duration in one suitable unit: 95 s, 4 min, 30 h, 3 days."""
    for words, size in _UNITS:
        if seconds >= 2 * size:
            return _(words) % {"count": round(seconds / size)}
    return _("%(count)d s") % {"count": round(max(seconds, 0))}
