"""The states of a message, and who may move it.  Read this page first.

``docs/states.md`` shows the same with a picture.  A message is *due* when ``next_attempt_at`` is set and not in the
future, *waiting* when it is pending or failed with ``next_attempt_at`` set, and *at rest* when it is failed without:
then nothing happens to it until a person acts.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """Where a message stands; ``store`` is the only writer."""

    #: Enters: enqueue, release of an untouched message.  Leaves: claim, cancel.
    #: A crash leaves it as it is; the next drain claims it when it is due.
    PENDING = "pending", _("pending")
    #: Enters: claim, with a token and a lease.  Leaves: finalize, release, recover, expire, adopt.
    #: A crash leaves it here until the lease runs out; then any drain recovers it as ``lost_claim``.
    SENDING = "sending", _("sending")
    #: Enters: finalize (the server accepted it), confirm, a late acceptance.  Leaves: never.
    SENT = "sent", _("sent")
    #: Enters: finalize, release, recover, expire, cancel, adopt.  Leaves: claim and retry, confirm.
    #: With ``next_attempt_at`` it waits for its next attempt; without, it is at rest.
    FAILED = "failed", _("failed")


class RecipientResult(TextChoices):
    """What became of one recipient; stored only where it differs from its message.

    The empty value means accepted where the message is sent, and open elsewhere.
    """

    IMPLIED = "", _("as the message")
    ACCEPTED = "accepted", _("accepted")
    REFUSED = "refused", _("refused")
    UNKNOWN = "unknown", _("unknown")


class AttemptOutcome(TextChoices):
    """How one attempt ended; an attempt that released its message leaves no row."""

    SENT = "sent", _("sent")
    FAILED = "failed", _("failed")
    UNKNOWN = "unknown", _("unknown")
    LOST = "lost", _("lost")


class ErrorCode(TextChoices):
    """``OutboxMessage.last_error_code`` and ``DeliveryAttempt.error_code``."""

    NETWORK = "network", _("network error")
    TIMEOUT = "timeout", _("timeout")
    TLS = "tls", _("TLS error")
    AUTH = "auth", _("authentication refused")
    PROVIDER = "provider", _("refused by the server")
    RECIPIENTS_REFUSED = "recipients_refused", _("recipients refused")
    ATTACHMENT = "attachment", _("attachment missing or altered")
    CONTENT = "content", _("content cannot be rendered")
    UNKNOWN_OUTCOME = "unknown_outcome", _("outcome unknown")
    LOST_CLAIM = "lost_claim", _("worker lost")
    EXPIRED = "expired", _("expired")
    CANCELLED = "cancelled", _("cancelled")
    ADOPTED = "adopted", _("adopted from a copied database")


@dataclass(frozen=True, slots=True)
class Transition:
    """One verb of the machine: the statuses that it may start from and end in."""

    sources: frozenset[Status]
    targets: frozenset[Status]


def _transition(sources: set[Status], targets: set[Status]) -> Transition:
    return Transition(frozenset(sources), frozenset(targets))


WAITING = frozenset({Status.PENDING, Status.FAILED})

#: verb -> (allowed from, to).  ``sending`` as a source always demands the claim's token (recover: its expiry).
TRANSITIONS: dict[str, Transition] = {
    "enqueue": _transition(set(), {Status.PENDING}),
    "claim": _transition({Status.PENDING, Status.FAILED}, {Status.SENDING}),
    "finalize": _transition({Status.SENDING}, {Status.SENT, Status.FAILED}),
    "release": _transition({Status.SENDING}, {Status.PENDING, Status.FAILED}),
    "recover": _transition({Status.SENDING}, {Status.FAILED, Status.SENT}),
    "expire": _transition({Status.SENDING}, {Status.FAILED}),
    "late result": _transition({Status.PENDING, Status.FAILED}, {Status.SENT}),
    "cancel": _transition({Status.PENDING, Status.FAILED}, {Status.FAILED}),
    "requeue": _transition({Status.PENDING, Status.FAILED}, {Status.PENDING, Status.FAILED}),
    "retry": _transition({Status.PENDING, Status.FAILED}, {Status.SENDING}),
    "confirm": _transition({Status.FAILED}, {Status.FAILED, Status.SENT}),
    "adopt": _transition({Status.PENDING, Status.SENDING, Status.FAILED}, {Status.FAILED, Status.SENT}),
}
