"""Failures and answers that a test asks of a local transport instead of deliveries."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectError
from prx_email_django.transports.smtp.auth import is_throttled
from prx_email_django.transports.smtp.replies import Reply, ReplyParser

#: Phases before a session is open, and the trouble that a failure in each of them names.
OPENING = {Phase.CONNECT: Trouble.CONNECTION, Phase.TLS: Trouble.TLS, Phase.AUTH: Trouble.AUTH}
_ERROR_CODES = {Trouble.CONNECTION: ErrorCode.NETWORK, Trouble.TLS: ErrorCode.TLS, Trouble.AUTH: ErrorCode.AUTH}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: a reply; or no reply, because the connection is lost or (``timeout``) nothing comes in time."""

    phase: Phase
    reply: Reply | None = None
    timeout: bool = False
    #: Deliver the message nevertheless (a message whose outcome is unknown, and which arrived).
    accept: bool = False

    @property
    def text(self) -> str:
        """What a person reads where there is no reply."""
        return "no reply in time" if self.timeout else "the connection was lost"


class Script:
    """The next failures, in order, and the answers to recipients."""

    def __init__(self) -> None:
        self._failures: deque[Failure] = deque()
        self._answers: dict[str, Reply] = {}

    def clear(self) -> None:
        """Remove all failures and answers."""
        self._failures.clear()
        self._answers.clear()

    def add(self, failure: Failure, *, times: int) -> None:
        """Fail the next ``times`` attempts that reach the phase of ``failure``."""
        self._failures.extend([failure] * times)

    def set_answer(self, address: str, reply: str) -> None:
        """Answer RCPT for this address with ``reply`` from now on."""
        self._answers[address] = parse(reply)

    def take(self, phase: Phase) -> Failure | None:
        """Remove and return the next failure if it belongs to this phase."""
        if self._failures and self._failures[0].phase is phase:
            return self._failures.popleft()
        return None

    def answer(self, address: str) -> Reply | None:
        """The answer that was set for a recipient, or None."""
        return self._answers.get(address)

    def check_opening(self, peer: str) -> None:
        """Raise ``ConnectError`` if the next failure belongs to a phase before a session is open."""
        for phase, trouble in OPENING.items():
            failure = self.take(phase)
            if failure is not None:
                raise _connect_error(failure, trouble, peer)


def _connect_error(failure: Failure, trouble: Trouble, peer: str) -> ConnectError:
    reply = failure.reply
    throttled = reply is not None and failure.phase is Phase.AUTH and is_throttled(reply.code, reply.text)
    if not throttled and (reply is None or reply.code < 500):
        # A temporary refusal or a lost connection says nothing about credentials.
        trouble = trouble if trouble is Trouble.TLS else Trouble.CONNECTION
    error_code = _ERROR_CODES[trouble]
    if reply is not None and (throttled or trouble is Trouble.CONNECTION):
        error_code = ErrorCode.PROVIDER
    return ConnectError(
        failure.text if reply is None else f"the server throttles logins: {reply}" if throttled else str(reply),
        phase=failure.phase,
        trouble=trouble,
        error_code=ErrorCode.TIMEOUT if failure.timeout else error_code,
        smtp_code=0 if reply is None else reply.code,
        enhanced="" if reply is None else reply.enhanced,
        peer=peer,
    )


def parse(text: str) -> Reply:
    """Parse the text of one reply, such as ``"550 5.1.1 no such user"``.

    Raises:
        ValueError: the text is not exactly one reply.
    """
    replies = ReplyParser().feed(text.encode() + b"\r\n")
    if len(replies) != 1:
        raise ValueError("the text must be exactly one reply, such as '550 5.1.1 no such user'")
    return replies[0]
