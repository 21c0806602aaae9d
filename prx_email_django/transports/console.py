"""Transport for development: it prints each message instead of sending it."""

from __future__ import annotations

import sys
from typing import TextIO

from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage
from prx_email_django.transports.local import LocalSession
from prx_email_django.transports.scripted import Script
from prx_email_django.transports.smtp.commands import Extensions

PEER = "console"


class ConsoleTransport:
    """``Transport`` that writes to ``stream``; None: to the standard output as it is when a message is printed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    async def open(self, settings: ConnectionSettings) -> LocalSession:
        """Open a session; this always succeeds, whatever host and credentials ``settings`` have."""
        extensions = Extensions(size=True, eight_bit=True, utf8=True)
        return LocalSession(deliver=self._print, settings=settings, extensions=extensions, script=Script(), peer=PEER)

    def _print(self, outgoing: OutgoingMessage, recipients: tuple[str, ...]) -> None:
        """Write envelope, message and a line of dashes at once, so that messages of several sessions do not mix."""
        stream = self._stream or sys.stdout
        text = outgoing.body.decode("utf-8", "replace").replace("\r\n", "\n")
        stream.write(f"MAIL FROM:<{outgoing.sender}> RCPT TO:<{'>, <'.join(recipients)}>\n{text}\n{'-' * 79}\n")
        stream.flush()
