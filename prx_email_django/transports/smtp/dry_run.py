"""MAIL, RCPT and RSET without a message: would the server take mail from an account that does not log in?

Many relays greet everybody, and say only at MAIL or RCPT that they demand a login or do not know this machine.  The
sender and the only recipient are the account's own address, and RSET ends the transaction before DATA: no mail is sent.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.transports.smtp.commands import UnsupportedMessage, path
from prx_email_django.transports.smtp.protocol import ConnectionLost, SmtpProtocol
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import judge_reply

#: "554 5.7.1 Relay access denied", Exim "550 relay not permitted", Postfix "Client host rejected: Access denied".
_REFUSES_CLIENT = re.compile(r"\brelay|client host rejected|access denied", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class EnvelopeAnswer:
    """The first answer that was no acceptance, with the command that it answers."""

    text: str
    #: The account's messages would be refused, too.  False: the answer is about the address, or will pass.
    is_refusal: bool


async def try_envelope(protocol: SmtpProtocol, address: str, *, deadline: float) -> EnvelopeAnswer | None:
    """Name the address as sender and as recipient, then take both back; ``deadline`` is of the event loop's clock.

    Returns:
        None: the server accepts both, or only SMTPUTF8 could name the address.
    """
    try:
        written = path(address)
    except UnsupportedMessage:
        return None
    if not written.isascii():
        return None
    for phase, command in ((Phase.MAIL, f"MAIL FROM:<{written}>"), (Phase.RCPT, f"RCPT TO:<{written}>")):
        try:
            reply = await _ask(protocol, command, deadline)
        except ConnectionLost as lost:
            return EnvelopeAnswer(f"{phase.upper()}: {lost.loss.text}", is_refusal=True)
        if reply.code >= 300:
            return EnvelopeAnswer(f"{phase.upper()}: {reply}", _is_refusal(phase, reply))
    with contextlib.suppress(ConnectionLost):
        await _ask(protocol, "RSET", deadline)
    return None


async def _ask(protocol: SmtpProtocol, command: str, deadline: float) -> Reply:
    protocol.write(f"{command}\r\n".encode("ascii"), 1)
    return await protocol.reply(deadline)


def _is_refusal(phase: Phase, reply: Reply) -> bool:
    """Whether the reply is about the account.

    A sender is refused as it would be in a message; a recipient is only an example: that the account's address has no
    mailbox at this server says nothing about other recipients.
    """
    trouble = judge_reply(phase, reply, completed=False).trouble
    if trouble is not Trouble.NONE:
        return not trouble.is_throttle
    if phase is Phase.MAIL or reply.code < 500:
        return reply.code >= 500
    return reply.enhanced.startswith("5.7.") or bool(_REFUSES_CLIENT.search(reply.text))
