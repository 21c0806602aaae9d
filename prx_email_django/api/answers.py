"""What ``send`` and ``retry_outbox`` return: how the row stands, and in words why no attempt could be made."""

from __future__ import annotations

import re

from prx_email_django.limits.pauses import known_state
from prx_email_django.models import Account, OutboxMessage, OutboxState
from prx_email_django.results import SendResult
from prx_email_django.rules.clock import Clock
from prx_email_django.states import ErrorCode
from prx_email_django.status.advice import advice
from prx_email_django.status.facts import pause_facts
from prx_email_django.status.reasons import AccountFacts, obstacle

#: Host and port, with which the text begins where the server ended the attempt before MAIL in its own words.
_NAMES_SERVER = re.compile(r"\S+:[0-9]+: ")
LIMITED, PAUSED = "limited", "paused"
#: Codes of attempts that did not get as far as MAIL, mostly.
_OF_CONNECTION = frozenset(
    {ErrorCode.NETWORK, ErrorCode.TIMEOUT, ErrorCode.TLS, ErrorCode.AUTH, ErrorCode.CONFIGURATION}
)


def answer(message: OutboxMessage, *, code: str = "", error: str = "") -> SendResult:
    """The message's own state; ``code`` and ``error`` say why no attempt was made, where none was."""
    return SendResult(
        outbox_id=message.pk,
        status=str(message.status),
        retries=message.retries,
        provider_message_id=message.provider_message_id,
        next_attempt_at=message.next_attempt_at,
        error=error if code else _with_advice(message),
        error_code=str(code or message.last_error_code),
    )


def _with_advice(message: OutboxMessage) -> str:
    """The last error; where no connection could be opened, with what to do about it."""
    error = message.last_error
    is_of_connection = message.last_error_code in _OF_CONNECTION or bool(_NAMES_SERVER.match(error))
    hint = advice(error) if is_of_connection else ""
    return f"{error.rstrip('.')}. {hint}" if hint else error


def pause_sentence(account: Account, outbox: OutboxState, *, clock: Clock) -> str:
    """Until when nothing is sent, and the reason; empty where nothing is paused."""
    everything, own = pause_facts(outbox, known_state(account), now=clock.now)
    return obstacle(AccountFacts(name=account.name, outbox=everything, pause=own), now=clock.now)
