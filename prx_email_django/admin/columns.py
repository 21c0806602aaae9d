"""Texts and colours for columns of lists and pages.  Pure functions of a row; some are columns themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.runtime_state import PausedBy
from prx_email_django.rules.recipients import effective_result
from prx_email_django.states import ErrorCode, Status
from prx_email_django.status.overview import span
from prx_email_django.status.stored_words import shown

#: Addresses shown in one line of a list.
SHOWN = 2
#: SMTP replies below this code accept (RFC 5321 §4.2.1).
FIRST_REFUSAL = 400


def badge(state: str, label: object) -> SafeString:
    """Return a label in the colour of a state."""
    return format_html('<span class="outbox-badge outbox-{}">{}</span>', state, label)


def badge_and_text(state: str, label: object, text: object) -> SafeString:
    """Return a label in the colour of a state, followed by a text."""
    return format_html('{} <span class="outbox-reason">{}</span>', badge(state, label), text)


def below(first: SafeString, second: SafeString) -> SafeString:
    """Put two texts into one cell, the second below the first."""
    return format_html("{}<div>{}</div>", first, second) if second else first


def link(url: str, label: object) -> SafeString:
    """Return a link to another page of the admin; without an address, the label alone."""
    if not url:
        return format_html("{}", label)
    return format_html('<a href="{}">{}</a>', url, label)


def ago(moment: datetime, now: datetime) -> SafeString:
    """Return how long ago an instant is, or in how long it comes, with the exact time and its zone on hover."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        text = _("now")
    elif seconds > 0:
        text = _("%(time)s ago") % {"time": span(seconds)}
    else:
        text = _("in %(time)s") % {"time": span(-seconds)}
    return exactly(moment, text)


def exactly(moment: datetime, text: str) -> SafeString:
    """Return a text about an instant, with the exact time and its zone on hover."""
    local = timezone.localtime(moment)
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), exact(moment), text)


def exact(moment: datetime) -> str:
    """Return an instant to the second, with its zone."""
    local = timezone.localtime(moment)
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"


def zone_in_words() -> str:
    """Name the zone of all times that are shown."""
    name = timezone.get_current_timezone_name()
    short = timezone.localtime().tzname() or name
    return name if short == name else f"{name} ({short})"


def instant(field: Any) -> Any:
    """Return a column for a field that holds an instant: how long ago, with the exact time beside it on a page."""
    name = field.name

    @admin.display(description=field.verbose_name, ordering=name, empty_value="–")
    def column(row: Any) -> SafeString | None:
        moment = getattr(row, name)
        return None if moment is None else ago(moment, timezone.now())

    column.__name__ = name
    return column


def instant_in_full(field: Any) -> Any:
    """Return a line of a page for a field that holds an instant: how long ago, and the exact time."""
    name = field.name

    @admin.display(description=field.verbose_name, empty_value="–")
    def line(row: Any) -> SafeString | None:
        moment = getattr(row, name)
        if moment is None:
            return None
        return format_html('{} <span class="outbox-reason">{}</span>', ago(moment, timezone.now()), exact(moment))

    line.__name__ = name
    return line


def stored_text(field: Any) -> Any:
    """Return a column with the text of a field; what a worker worded is shown in the reader's language."""

    @admin.display(description=field.verbose_name)
    def column(row: Any) -> str:
        text = str(getattr(row, field.name))
        by_person = PausedBy.PERSON in (getattr(row, "paused_by", ""), getattr(row, "code", ""))
        return text if by_person else shown(text)

    column.__name__ = field.name
    return column


def message_state(message: OutboxMessage, *, now: datetime | None = None) -> tuple[str, str]:
    """Return the state (which sets the colour) and the label of a message.

    A worker renews its claim, so a claim that has ended belongs to a worker that was probably killed.
    """
    if message.claim_has_run_out(now or timezone.now()):
        return "lost", _("worker lost?")
    if message.status == Status.FAILED:
        if message.next_attempt_at is not None:
            return "deferred", _("will be tried again")
        if message.last_error_code == ErrorCode.CANCELLED:
            return "rest", _("cancelled")
        return "failed", _("failed, at rest")
    if message.status in Status.values:
        return message.status, str(Status(message.status).label)
    return "failed", message.status


@admin.display(description=gettext_lazy("status"))
def status_badges(message: OutboxMessage) -> SafeString:
    """Return the status label, with a second label if the message may have been delivered."""
    state = badge(*message_state(message))
    if not message.may_have_been_delivered:
        return state
    return format_html("{} {}", state, badge("unknown", _("may have been delivered")))


def status_and_time(message: OutboxMessage) -> SafeString:
    """Return the status label and the time of the next attempt."""
    if message.next_attempt_at is None or not message.is_waiting:
        return status_badges(message)
    now = timezone.now()
    due_for = (now - message.next_attempt_at).total_seconds()
    time = ago(message.next_attempt_at, now)
    if due_for >= 0:
        time = exactly(message.next_attempt_at, _("due for %(time)s") % {"time": span(due_for)})
    return format_html('{} <span class="outbox-reason">{}</span>', status_badges(message), time)


@admin.display(description=gettext_lazy("failed attempts"))
def failures(message: OutboxMessage) -> str:
    """Return the number of attempts that did not succeed, and how many of them have an unknown outcome."""
    unknown = message.attempts - message.retries
    if unknown <= 0:
        return str(message.attempts)
    return _("%(count)d, of which %(unknown)d with unknown outcome") % {
        "count": message.attempts,
        "unknown": unknown,
    }


def recipient_result(recipient: Recipient, message: OutboxMessage) -> tuple[str, str]:
    """Return the state and the label of a recipient's result; an empty result follows the message's status."""
    result = effective_result(recipient.result, message.status)
    return (result.value, str(result.label)) if result else ("open", _("open"))


def recipient_answer(recipient: Recipient, message: OutboxMessage) -> str:
    """Return the server's last reply about a recipient; a refusal from before its acceptance is marked as such."""
    reply = f"{recipient.code or ''} {shown(recipient.text)}".strip()
    state, _label = recipient_result(recipient, message)
    if state == "accepted" and recipient.code is not None and recipient.code >= FIRST_REFUSAL:
        return _("before it was accepted: %(answer)s") % {"answer": reply}
    return reply


def answer(attempt: DeliveryAttempt) -> str:
    """Return code and error of an attempt, each code once; after an acceptance: which recipients were refused."""
    code = f"{attempt.smtp_code or ''} {attempt.enhanced_code}".strip()
    if not attempt.error:
        return code
    error = shown(attempt.error)
    if attempt.smtp_code is None or str(attempt.smtp_code) in attempt.error:
        return error
    if attempt.smtp_code < FIRST_REFUSAL:
        return _("%(code)s, but not for every recipient: %(error)s") % {"code": code, "error": error}
    return f"{code} {error}"


@admin.display(description=gettext_lazy("what happened"))
def what_happened(attempt: DeliveryAttempt) -> SafeString:
    """Return the kind of error and the server's reply."""
    if not attempt.error_code:
        return format_html("{}", answer(attempt))
    return format_html("<strong>{}</strong> {}", attempt.get_error_code_display(), answer(attempt))


@admin.display(description=gettext_lazy("recipients"))
def addresses(message: OutboxMessage) -> str:
    """Return the first addresses, and how many more there are."""
    everyone: Sequence[str] = [*message.to, *message.cc, *message.bcc]
    shown = ", ".join(str(address) for address in everyone[:SHOWN])
    more = len(everyone) - SHOWN
    if more <= 0:
        return shown
    return ngettext("%(shown)s and %(more)d more", "%(shown)s and %(more)d more", more) % {"shown": shown, "more": more}


@admin.display(description=gettext_lazy("reason"))
def reason(message: OutboxMessage) -> SafeString:
    """Return kind and text of the last error."""
    if not message.last_error and message.last_error_code in ("", ErrorCode.CANCELLED):
        return SafeString("")
    text = Truncator(shown(message.last_error)).chars(120)
    return format_html(
        '<strong>{}</strong> <span class="outbox-reason">{}</span>', message.get_last_error_code_display(), text
    )


def joined(name: str, label: Any) -> Any:
    """Return a column with the addresses of one field as the caller gave them."""

    @admin.display(description=label)
    def column(message: OutboxMessage) -> str:
        return ", ".join(getattr(message, name))

    return staticmethod(column)
