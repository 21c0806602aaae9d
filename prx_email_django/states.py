"""The states of a message, and the verbs that move it.  Read this module first.

``docs/explanation/states.md`` shows the same with a picture.  A message is *due* when ``next_attempt_at`` is set and
not in the future, *waiting* when it is pending or failed with ``next_attempt_at`` set, and *at rest* when it is failed
without ``next_attempt_at``: then nothing happens to it until a person acts.

A status is written by ``insert``, ``claims``, ``claim_statement``, ``sent_group``, ``finalize``, ``late_results``,
``lease`` (release), ``recover``, ``operations``, ``reinstate`` and ``adopt`` of ``store``, each for its verbs below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The four statuses of a message; ``store`` is the only writer."""

    #: Enters: enqueue, release of an untouched message.  Leaves: claim, retry, cancel, adopt, late result.
    #: A crash leaves it as it is; the next drain claims it when it is due.
    PENDING = "pending", _("pending")
    #: Enters: claim, retry and send, with a token and a lease.  Leaves: finalize, release, recover, expire, adopt.
    #: A crash leaves it here until the lease runs out; then any drain recovers it as ``lost_claim``.
    SENDING = "sending", _("sending")
    #: Enters: finalize (the server accepted it), confirm, and late result, recover, expire and adopt where every
    #: recipient was accepted by an attempt that came back late; import of what another program has sent.
    #: Leaves: never.  A crash leaves it as it is.
    SENT = "sent", _("sent")
    #: Enters: finalize, release, recover, expire, cancel, adopt.  Leaves: claim, retry, confirm, late result.
    #: With ``next_attempt_at`` it waits for its next attempt; without, it is at rest.  A crash leaves it as it is.
    FAILED = "failed", _("failed")


class RecipientResult(TextChoices):
    """The stored result of one recipient; ``rules.recipients`` says what the empty one means."""

    IMPLIED = "", _("as the message")
    ACCEPTED = "accepted", _("accepted")
    REFUSED = "refused", _("refused")
    UNKNOWN = "unknown", _("unknown")


class AttemptOutcome(TextChoices):
    """How one attempt ended; an attempt that released its message untouched leaves no row."""

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
    CONFIGURATION = "configuration", _("account misconfigured")
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
    """One verb of the state machine: the statuses before and after, of every message that the verb moves."""

    moves: frozenset[tuple[Status, Status]]
    #: The status in which the verb puts a new message.
    entry: Status | None = None

    @property
    def sources(self) -> frozenset[Status]:
        """The statuses from which the verb moves a message."""
        return frozenset(source for source, _target in self.moves)

    @property
    def targets(self) -> frozenset[Status]:
        """The statuses to which the verb moves a message."""
        return frozenset(target for _source, target in self.moves) | ({self.entry} if self.entry else frozenset())


def _from(moves: Mapping[Status, Collection[Status]]) -> Transition:
    return Transition(frozenset((source, target) for source, targets in moves.items() for target in targets))


_PENDING, _SENDING, _SENT, _FAILED = Status.PENDING, Status.SENDING, Status.SENT, Status.FAILED

WAITING = frozenset({Status.PENDING, Status.FAILED})

#: Written by: ``store.insert`` (enqueue, send), ``store.sent_elsewhere`` (import), ``store.claims`` (claim, release),
#: ``store.finalize`` (finalize; in PostgreSQL groups by ``store.sent_group``), ``store.recover`` (recover, expire),
#: ``store.late_results``, ``store.operations`` (cancel, requeue, retry, confirm), ``store.reinstate``, ``store.adopt``
#: and ``store.erase``.
#:
#: verb -> status before: statuses after.  A move out of ``sending`` demands the claim's token (recover and adopt: the
#: row's lock).  A message that stays ``failed`` or ``pending`` is due at another time, or comes to rest.
TRANSITIONS: dict[str, Transition] = {
    "enqueue": Transition(frozenset(), entry=_PENDING),
    # Queued and claimed in one step, so that no drain takes the row in between.
    "send": Transition(frozenset(), entry=_SENDING),
    # The history of another program.
    "import": Transition(frozenset(), entry=_SENT),
    "claim": _from({_PENDING: {_SENDING}, _FAILED: {_SENDING}}),
    "finalize": _from({_SENDING: {_SENT, _FAILED}}),
    "release": _from({_SENDING: {_PENDING, _FAILED}}),
    "recover": _from({_SENDING: {_FAILED, _SENT}}),
    "expire": _from({_SENDING: {_FAILED, _SENT}}),
    "late result": _from({_PENDING: {_SENT}, _FAILED: {_SENT}}),
    # The refusal was the account's trouble: due again, with the counters of before.
    "reinstate": _from({_FAILED: {_FAILED}}),
    "cancel": _from({_PENDING: {_FAILED}, _FAILED: {_FAILED}}),
    "requeue": _from({_PENDING: {_PENDING}, _FAILED: {_FAILED}}),
    "retry": _from({_PENDING: {_SENDING}, _FAILED: {_SENDING}}),
    "confirm": _from({_FAILED: {_FAILED, _SENT}}),
    "adopt": _from({_PENDING: {_FAILED}, _SENDING: {_FAILED, _SENT}, _FAILED: {_FAILED}}),
    # One recipient less: a message that waited only for that one is over.
    "erase": _from({_PENDING: {_PENDING}, _FAILED: {_FAILED, _SENT}}),
}
