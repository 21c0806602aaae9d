"""What a person may ask of a message: the verbs behind buttons and bulk actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from prx_email_django import api
from prx_email_django.models import OutboxMessage
from prx_email_django.results import ChangeReport
from prx_email_django.states import WAITING, Status

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    Text: TypeAlias = str | _StrPromise

#: ``ChangeReport.refused``'s codes in words; ``forbidden`` is the admin's own.
REFUSALS: Mapping[str, Text] = {
    "not_found": _("gone"),
    "sent": _("already sent"),
    "sending": _("being sent right now"),
    "waiting": _("waiting for its first attempt"),
    "at_rest": _("at rest already"),
    "not_unknown": _("its outcome is known"),
    "forbidden": _("not permitted"),
}


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its words, whether it is offered for a message, and what it calls."""

    name: str
    label: Text
    #: What it will do, beside the button.
    help: Text
    #: ``%(count)d`` messages, when it is done.
    done: Text
    #: What the history says.
    log: Text
    apply: Callable[[Sequence[int]], ChangeReport]
    offered: Callable[[OutboxMessage, datetime], bool]
    #: May make a second copy where an outcome is unknown.
    copies: bool = False

    def doubtful(self, message: OutboxMessage) -> bool:
        """Whether the person must first say that a second copy is all right."""
        return self.copies and message.may_have_been_delivered


def _is_failed(message: OutboxMessage, now: datetime) -> bool:
    return message.status == Status.FAILED


def _waits(message: OutboxMessage, now: datetime) -> bool:
    return message.status in WAITING and message.next_attempt_at is not None


def _is_delayed(message: OutboxMessage, now: datetime) -> bool:
    due = message.next_attempt_at
    return message.status == Status.PENDING and due is not None and due > now


def _is_doubtful(message: OutboxMessage, now: datetime) -> bool:
    return message.status == Status.FAILED and message.may_have_been_delivered


RETRY = Verb(
    name="retry",
    label=_("Retry now"),
    help=_("It becomes due at once, and the next drain sends it."),
    done=ngettext_lazy(
        "%(count)d message is due now and will be sent by the next drain.",
        "%(count)d messages are due now and will be sent by the next drain.",
        "count",
    ),
    log=_("Retry asked for."),
    apply=lambda ids: api.requeue_outbox(ids),
    offered=_is_failed,
    copies=True,
)
SEND_NOW = Verb(
    name="send-now",
    label=_("Send now"),
    help=_("It does not wait for its time: the next drain sends it."),
    done=RETRY.done,
    log=_("Sending asked for before its time."),
    apply=lambda ids: api.requeue_outbox(ids, force=True),
    offered=_is_delayed,
    copies=True,
)
CANCEL = Verb(
    name="cancel",
    label=_("Cancel"),
    help=_("It comes to rest and is not sent, unless somebody retries it."),
    done=ngettext_lazy(
        "%(count)d message is cancelled and will not be sent.",
        "%(count)d messages are cancelled and will not be sent.",
        "count",
    ),
    log=_("Cancelled."),
    apply=lambda ids: api.cancel_outbox(ids),
    offered=_waits,
)
CONFIRM = Verb(
    name="confirm",
    label=_("Confirm: it arrived"),
    help=_("You know that it arrived: recipients in doubt count as served, and nothing goes to them again."),
    done=ngettext_lazy(
        "%(count)d message is confirmed to have arrived.",
        "%(count)d messages are confirmed to have arrived.",
        "count",
    ),
    log=_("Confirmed to have arrived."),
    apply=lambda ids: api.confirm_outbox(ids),
    offered=_is_doubtful,
)

VERBS: Mapping[str, Verb] = {verb.name: verb for verb in (RETRY, SEND_NOW, CONFIRM, CANCEL)}
