"""The transports that must keep the contract, each with the same interface for tests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Protocol

import pytest

from prx_email_django.transports.base import ConnectionSettings, Transport
from prx_email_django.transports.console import ConsoleTransport
from prx_email_django.transports.memory import MemoryTransport
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import settings_for
from tests.support.smtp_server import SmtpServer

#: The stage of the scripted server for each phase whose name differs.
STAGES = {"connect": "greeting", "tls": "starttls", "body": "final"}


class Harness(Protocol):
    """A transport, and the messages that it delivered."""

    @property
    def transport(self) -> Transport: ...

    def settings(self, **options: object) -> ConnectionSettings: ...

    def delivered(self) -> list[tuple[str, tuple[str, ...], bytes]]: ...


class Scripted(Harness, Protocol):
    """A transport that fails where the test says."""

    def fail(self, phase: str, reply: str = "", *, accept: bool = False) -> None: ...

    def answer(self, address: str, reply: str) -> None: ...


class SmtpHarness:
    def __init__(self, server: SmtpServer, level: str) -> None:
        self.transport = SmtpTransport()
        self._server = server
        self._level = level

    def settings(self, **options: object) -> ConnectionSettings:
        if self._level == "chunked":
            options = {"max_in_flight": 4, "window": 1, **options}
        return settings_for(self._server, pipelining=self._level, **options)

    def delivered(self) -> list[tuple[str, tuple[str, ...], bytes]]:
        return [(message.sender, message.recipients, message.data) for message in self._server.messages]

    def fail(self, phase: str, reply: str = "", *, accept: bool = False) -> None:
        stage = STAGES.get(phase, phase)
        self._server.on(stage, times=1, reply=reply or None, drop=not reply, accept=accept)

    def answer(self, address: str, reply: str) -> None:
        self._server.on("rcpt", address=address, reply=reply)


class MemoryHarness:
    def __init__(self) -> None:
        self.transport = MemoryTransport(size_limit=50_000_000)

    def settings(self, **options: object) -> ConnectionSettings:
        return _any_settings(**options)

    def delivered(self) -> list[tuple[str, tuple[str, ...], bytes]]:
        return [(message.sender, message.recipients, message.body) for message in self.transport.delivered]

    def fail(self, phase: str, reply: str = "", *, accept: bool = False) -> None:
        self.transport.fail_next(phase, reply, accept=accept)

    def answer(self, address: str, reply: str) -> None:
        self.transport.refuse(address, reply)


class ConsoleHarness:
    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.transport = ConsoleTransport(self._stream)

    def settings(self, **options: object) -> ConnectionSettings:
        return _any_settings(**options)

    def delivered(self) -> list[tuple[str, tuple[str, ...], bytes]]:
        return [_printed(text) for text in self._stream.getvalue().split(f"{'-' * 79}\n")[:-1]]


def _printed(text: str) -> tuple[str, tuple[str, ...], bytes]:
    envelope, _, body = text.partition("\n")
    sender, _, recipients = envelope.removeprefix("MAIL FROM:<").partition("> RCPT TO:<")
    return sender, tuple(recipients.removesuffix(">").split(">, <")), body[:-1].replace("\n", "\r\n").encode()


def _any_settings(**options: object) -> ConnectionSettings:
    values = {"host": "localhost", "port": 25, "security": "none", "auth_method": "none", **options}
    return ConnectionSettings(**values)  # type: ignore[arg-type]  # the test gives fields of the right types


@pytest.fixture(params=["off", "envelope", "full"])
def level(request: pytest.FixtureRequest) -> str:
    """Every level of pipelining."""
    return str(request.param)


BY_DATA = ["smtp-off", "smtp-envelope", "smtp-full", "smtp-auto", "memory"]


@pytest.fixture(params=[*BY_DATA, "smtp-chunked"])
def scripted(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    """Each transport that can be scripted to fail."""
    yield from _scripted(request.param)


@pytest.fixture(params=BY_DATA)
def by_data(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    """Each of these that writes the body after the envelope was accepted: with BDAT there is no phase between."""
    yield from _scripted(request.param)


def _scripted(name: str) -> Iterator[Scripted]:
    if name == "memory":
        yield MemoryHarness()
        return
    with SmtpServer(tls="starttls", users={"ann": "secret"}, chunking=True) as server:
        yield SmtpHarness(server, name.removeprefix("smtp-"))


@pytest.fixture(params=["smtp", "smtp-chunked", "memory", "console"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Each transport."""
    if request.param.startswith("smtp"):
        with SmtpServer(tls="starttls", users={"ann": "secret"}, chunking=True) as server:
            yield SmtpHarness(server, request.param.removeprefix("smtp").removeprefix("-") or "auto")
    else:
        yield MemoryHarness() if request.param == "memory" else ConsoleHarness()
