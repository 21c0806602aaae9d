"""Prints each message instead of sending it: for development."""

from __future__ import annotations

import sys
from typing import TextIO

from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage
from prx_email_django.transports.local import LocalSession
from prx_email_django.transports.scripted import Script
from prx_email_django.transports.smtp.commands import Extensions

PEER = "console"


class ConsoleTransport:
    """``Transport`` to a text stream; None is the standard output at the time of printing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    async def open(self, settings: ConnectionSettings) -> LocalSession:
        """Always succeeds; the login is not looked at."""
        extensions = Extensions(size=True, eight_bit=True, utf8=True)
        return LocalSession(deliver=self._print, settings=settings, extensions=extensions, script=Script(), peer=PEER)

    def _print(self, outgoing: OutgoingMessage, recipients: tuple[str, ...]) -> None:
        """The envelope, the message, a rule: one write, so that messages of several sessions do not mix."""
        stream = self._stream or sys.stdout
        text = outgoing.body.decode("utf-8", "replace").replace("\r\n", "\n")
        stream.write(f"MAIL FROM:<{outgoing.sender}> RCPT TO:<{'>, <'.join(recipients)}>\n{text}\n{'-' * 79}\n")
        stream.flush()
