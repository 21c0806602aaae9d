"""The operations behind the buttons and bulk actions of messages.  Each calls one function of ``api``.

"Retry" and "Send now" call ``api.requeue_outbox``, "Cancel" ``api.cancel_outbox``, "Confirm"
``api.confirm_outbox``, "Dismiss" ``api.dismiss_outbox``.
"""

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
from prx_email_django.states import Status

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    Text: TypeAlias = str | _StrPromise

#: Text for each code of ``ChangeReport.refused``; ``forbidden`` and ``set_aside`` exist only in the admin.
REFUSALS: Mapping[str, Text] = {
    "not_found": _("deleted"),
    "sent": _("already sent"),
    "sending": _("claimed by a worker"),
    "waiting": _("waiting for an attempt"),
    "at_rest": _("at rest already"),
    "not_unknown": _("their outcome is known"),
    "forbidden": _("not permitted"),
    "set_aside": _("cancelled, adopted or expired"),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its texts, the function that it calls, and the messages for which it is offered."""

    name: str
    label: Text
    #: Shown beside the button: what the operation does.
    help: Text
    #: Shown after the operation; ``%(count)d`` is the number of changed messages.
    done: Text
    #: Entry in the message's history.
    log: Text
    apply: Callable[[Sequence[int]], ChangeReport]
    is_offered: Callable[[OutboxMessage, datetime], bool]
    #: The label where nothing would send the message now.
    label_if_held: Text = ""
    #: The operation may send a second copy of a message whose outcome is unknown.
    sends_again: bool = False

    def may_duplicate(self, message: OutboxMessage) -> bool:
        """Whether the person must first accept that the recipients may receive a second copy."""
        return self.sends_again and message.may_have_been_delivered


def _is_delayed(message: OutboxMessage, now: datetime) -> bool:
    due = message.next_attempt_at
    return message.status == Status.PENDING and due is not None and due > now


RETRY = Operation(
    name="retry",
    label=_("Retry now"),
    help=_("Due now: a running worker sends it."),
    done=ngettext_lazy("%(count)d message is due now.", "%(count)d messages are due now.", "count"),
    log=_("Retry requested."),
    apply=api.requeue_outbox,
    is_offered=lambda message, now: message.status == Status.FAILED,
    label_if_held=_("Make it due"),
    sends_again=True,
)
SEND_NOW = Operation(
    name="send-now",
    label=_("Send now"),
    help=_("Due now, before the planned time: a running worker sends it."),
    done=RETRY.done,
    log=_("Sending before the planned time requested."),
    apply=lambda ids: api.requeue_outbox(ids, force=True),
    is_offered=_is_delayed,
    label_if_held=RETRY.label_if_held,
    sends_again=True,
)
CANCEL = Operation(
    name="cancel",
    label=_("Cancel"),
    help=_("The message is not sent, unless a person retries it."),
    done=ngettext_lazy(
        "%(count)d message is cancelled and will not be sent.",
        "%(count)d messages are cancelled and will not be sent.",
        "count",
    ),
    log=_("Cancelled."),
    apply=api.cancel_outbox,
    is_offered=lambda message, now: message.is_waiting,
)
CONFIRM = Operation(
    name="confirm",
    label=_("Confirm: it arrived"),
    help=_(
        "You know that the message arrived. Recipients with an unknown outcome count as accepted; nothing is sent to "
        "them again."
    ),
    done=ngettext_lazy(
        "%(count)d message is confirmed to have arrived.",
        "%(count)d messages are confirmed to have arrived.",
        "count",
    ),
    log=_("Confirmed to have arrived."),
    apply=api.confirm_outbox,
    is_offered=lambda message, now: message.status == Status.FAILED and message.may_have_been_delivered,
)

DISMISS = Operation(
    name="dismiss",
    label=_("Dismiss"),
    help=_("Nothing more has to be done: the message leaves the list of those that need a person. It stays failed."),
    done=ngettext_lazy(
        "%(count)d message is dismissed: it needs nobody any more.",
        "%(count)d messages are dismissed: they need nobody any more.",
        "count",
    ),
    log=_("Dismissed."),
    apply=api.dismiss_outbox,
    is_offered=lambda message, now: message.needs_person,
)

OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation for operation in (RETRY, SEND_NOW, CONFIRM, CANCEL, DISMISS)
}
