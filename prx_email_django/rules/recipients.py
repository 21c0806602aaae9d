"""Recipients of a message: what a stored result means, and what an answer makes of it.

A result is stored only where it differs from its message: the empty one means accepted where the message is sent, and
open elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from prx_email_django.rules.outcomes import Answer, RecipientOutcome
from prx_email_django.states import RecipientResult, Status

#: Stored results of the recipients to whom a message that is not sent still has to go.
OPEN_RESULTS = (RecipientResult.IMPLIED, RecipientResult.UNKNOWN)
_BY_ANSWER = {
    Answer.ACCEPTED: RecipientResult.ACCEPTED,
    Answer.REFUSED: RecipientResult.REFUSED,
    Answer.UNKNOWN: RecipientResult.UNKNOWN,
}


def is_open(result: str) -> bool:
    """Whether a message that is not sent still has to go to a recipient with this stored result."""
    return result in OPEN_RESULTS


def effective_result(result: str, message_status: str) -> RecipientResult:
    """What a stored result means beside the status of its message; empty: the recipient is open."""
    is_implied = result == RecipientResult.IMPLIED and message_status == Status.SENT
    return RecipientResult.ACCEPTED if is_implied else RecipientResult(result)


def merge_result(before: str, answer: RecipientOutcome | None) -> RecipientResult:
    """A recipient's result after an attempt; None: the attempt did not address the recipient.

    An accepted recipient stays accepted, and a deferral does not end the doubt about an unknown one.
    """
    result = RecipientResult(before)
    if answer is None or result is RecipientResult.ACCEPTED:
        return result
    return _BY_ANSWER.get(answer.answer, result)


def is_settled(results: Iterable[str]) -> bool:
    """Whether no recipient is open or unknown: nothing is left to send."""
    return not any(is_open(result) for result in results)


def settled_status(results: Iterable[str]) -> Status:
    """The status of a message whose recipients are settled: ``sent`` if any was accepted, else ``failed``."""
    return Status.SENT if RecipientResult.ACCEPTED in results else Status.FAILED
