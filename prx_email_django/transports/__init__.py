"""Ways to hand a message to a server: real SMTP, and doubles that keep the same contract."""

from __future__ import annotations

from prx_email_django.transports.base import Transport
from prx_email_django.transports.connection import SmtpTransport
from prx_email_django.transports.console import ConsoleTransport
from prx_email_django.transports.memory import shared

#: The values of the setting ``TRANSPORT``.
NAMES = ("smtp", "console", "memory")


def transport_for(name: str) -> Transport:
    """The transport of that name; memory is always the same one.

    Raises:
        KeyError: there is none of that name.
    """
    transports: dict[str, Transport] = {"smtp": SmtpTransport(), "console": ConsoleTransport(), "memory": shared}
    return transports[name]
