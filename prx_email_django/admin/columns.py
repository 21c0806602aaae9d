"""How rows are put into words and colours; pure."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules.recipients import effective_result
from prx_email_django.states import WAITING, ErrorCode, Status
from prx_email_django.status.reasons import at

#: Addresses of a list's line.
SHOWN = 2
#: Replies below this code accept.
FIRST_REFUSAL = 400


def badge(state: str, label: object) -> SafeString:
    """A word in the colour of its state."""
    return format_html('<span class="outbox-badge outbox-{}">{}</span>', state, label)


def badge_and_words(state: str, label: object, words: object) -> SafeString:
    """A word in the colour of its state, and what there is to say about it."""
    return format_html('{} <span class="outbox-reason">{}</span>', badge(state, label), words)


def below(first: SafeString, second: SafeString) -> SafeString:
    """One above the other, in one cell."""
    return format_html("{}<div>{}</div>", first, second) if second else first


def link(url: str, label: object) -> SafeString:
    """A link to another page of the admin."""
    return format_html('<a href="{}">{}</a>', url, label)


def message_state(message: OutboxMessage) -> tuple[str, str]:
    """The colour and the words of a message's status."""
    if message.status == Status.FAILED:
        if message.next_attempt_at is not None:
            return "deferred", _("will be tried again")
        if message.last_error_code == ErrorCode.CANCELLED:
            return "rest", _("cancelled")
        return "failed", _("failed, at rest")
    if message.status in Status.values:
        return message.status, str(Status(message.status).label)
    return "failed", message.status


def status_badges(message: OutboxMessage) -> SafeString:
    """The status, and a mark where nobody knows whether it arrived."""
    state = badge(*message_state(message))
    if not message.may_have_been_delivered:
        return state
    return format_html("{} {}", state, badge("unknown", _("may have been delivered")))


def status_and_time(message: OutboxMessage) -> SafeString:
    """The status, and when the next attempt is due."""
    if message.next_attempt_at is None or message.status not in WAITING:
        return status_badges(message)
    now = timezone.now()
    words = _("at %(time)s") if message.next_attempt_at > now else _("due since %(time)s")
    told = words % {"time": at(message.next_attempt_at, now)}
    return format_html('{} <span class="outbox-reason">{}</span>', status_badges(message), told)


def failures(message: OutboxMessage) -> str:
    """How many attempts failed, and of how many nobody knows whether they did."""
    unknown = message.attempts - message.retries
    if unknown <= 0:
        return str(message.attempts)
    return _("%(count)d, with an outcome that nobody knows: %(unknown)d") % {
        "count": message.attempts,
        "unknown": unknown,
    }


def recipient_result(recipient: Recipient, message: OutboxMessage) -> tuple[str, str]:
    """The colour and the words of a recipient's result."""
    result = effective_result(recipient.result, message.status)
    return (result.value, str(result.label)) if result else ("open", _("open"))


def recipient_answer(recipient: Recipient, message: OutboxMessage) -> str:
    """The server's last answer to a recipient; one that was given before it accepted is told as such."""
    words = f"{recipient.code or ''} {recipient.text}".strip()
    state, _label = recipient_result(recipient, message)
    if state == "accepted" and recipient.code is not None and recipient.code >= FIRST_REFUSAL:
        return _("before it was accepted: %(answer)s") % {"answer": words}
    return words


def answer(attempt: DeliveryAttempt) -> str:
    """What came of an attempt, each code told once; beside an acceptance: what was not accepted."""
    code = f"{attempt.smtp_code or ''} {attempt.enhanced_code}".strip()
    if not attempt.error:
        return code
    if attempt.smtp_code is None or str(attempt.smtp_code) in attempt.error:
        return attempt.error
    if attempt.smtp_code < FIRST_REFUSAL:
        return _("%(code)s, but not for everybody: %(error)s") % {"code": code, "error": attempt.error}
    return f"{code} {attempt.error}"


def what_happened(attempt: DeliveryAttempt) -> SafeString:
    """The kind of the error, and the answer."""
    if not attempt.error_code:
        return format_html("{}", answer(attempt))
    return format_html("<strong>{}</strong> {}", attempt.get_error_code_display(), answer(attempt))


def addresses(message: OutboxMessage) -> str:
    """The first recipients, and how many more there are."""
    everybody: Sequence[str] = [*message.to, *message.cc, *message.bcc]
    shown = ", ".join(str(one) for one in everybody[:SHOWN])
    more = len(everybody) - SHOWN
    if more <= 0:
        return shown
    return ngettext("%(shown)s and %(more)d more", "%(shown)s and %(more)d more", more) % {"shown": shown, "more": more}


def reason(message: OutboxMessage) -> SafeString:
    """The last error: what kind, and what was said."""
    if not message.last_error and message.last_error_code in ("", ErrorCode.CANCELLED):
        return SafeString("")
    text = Truncator(message.last_error).chars(120)
    return format_html(
        '<strong>{}</strong> <span class="outbox-reason">{}</span>', message.get_last_error_code_display(), text
    )
