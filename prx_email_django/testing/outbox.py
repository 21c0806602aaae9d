"""``TestOutbox``: the queue, a drain, and the delivered messages of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.test import override_settings

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.reader import configures_mail_by_email_settings, mailers, prx_email
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.transports.memory import Delivered, shared

BACKEND = "prx_email_django.testing.backend.EmailBackend"
#: Name of the account that is created if ``DEFAULT_ACCOUNT`` is empty.
ACCOUNT = "test"
#: Reply of a server to a wrong password (RFC 4954 §6).
LOGIN_REFUSED = "535 5.7.8 authentication credentials invalid"


def kit_settings() -> override_settings:
    """Return the settings of a test: mail goes through the outbox into memory, and wakes no worker."""
    default_account = outbox_settings().default_account or ACCOUNT
    changed: dict[str, Any] = {
        "PRX_EMAIL": {**prx_email(), "TRANSPORT": "memory", "WAKE": "", "DEFAULT_ACCOUNT": default_account}
    }
    if configures_mail_by_email_settings():
        changed["EMAIL_BACKEND"] = BACKEND
    else:
        changed["MAILERS"] = {alias: {"BACKEND": BACKEND} for alias in mailers() or ("default",)}
    return override_settings(**changed)


class TestOutbox:
    """The outbox of one test: a sequence of its messages, in the order in which they were queued."""

    #: pytest must not collect this class, although its name starts with Test.
    __test__ = False

    def prepare(self) -> None:
        """Start a test: clear the delivered messages, and create the default account if it does not exist."""
        shared.reset()
        defaults = {"host": "localhost", "port": 25, "auth_method": "none", "email": "test@example.com"}
        Account.objects.get_or_create(name=outbox_settings().default_account, defaults=defaults)

    @property
    def messages(self) -> list[OutboxMessage]:
        """All messages, in every status."""
        return list(OutboxMessage.objects.order_by("pk"))

    def __len__(self) -> int:
        return OutboxMessage.objects.count()

    def __iter__(self) -> Iterator[OutboxMessage]:
        return iter(self.messages)

    def __getitem__(self, index: int) -> OutboxMessage:
        return self.messages[index]

    @property
    def delivered(self) -> Sequence[Delivered]:
        """The delivered messages in order: ``sender``, ``recipients``, ``body``, ``message``."""
        return tuple(shared.delivered)

    def deliver(self, *, now: datetime | None = None) -> DrainReport:
        """Send due messages into memory; pass a later ``now`` for messages that wait or are retried."""
        return api.drain(now=now)

    def fail_next(
        self, phase: str = "connect", reply: str = "", *, timeout: bool = False, accept: bool = False, times: int = 1
    ) -> None:
        """Make the next attempts fail: see ``MemoryTransport.fail_next``.

        ``fail_next("connect")``: the server cannot be reached.  ``fail_next("auth")``: the server refuses the password,
        and the account pauses.  ``fail_next("rcpt", "550 5.1.1 no such user")``: the server refuses the recipient.
        ``fail_next("body")``: the connection is lost, and the outcome is unknown.
        """
        if phase == "auth" and not reply and not timeout:
            reply = LOGIN_REFUSED
        shared.fail_next(phase, reply, timeout=timeout, accept=accept, times=times)

    def assert_queued(self, *, count: int = 1, **expected: str) -> OutboxMessage:
        """Assert that exactly ``count`` messages match all expected values; return the last of them.

        Expected values: ``to`` (an envelope address: To, Cc or Bcc), ``subject``, ``body`` (a part of the text or HTML
        body), ``tag``, ``account`` (a name) and ``status`` (``pending``, ``sent``, …).

        Raises:
            AssertionError: another number of messages matches; the text lists the messages in the outbox.
        """
        found = self._found(expected)
        if len(found) != count or not found:
            raise AssertionError(f"{len(found)} messages match {expected}, but {count} should.  {self._contents()}")
        return found[-1]

    def assert_not_queued(self, **expected: str) -> None:
        """Assert that no message matches all expected values (see ``assert_queued``).

        Raises:
            AssertionError: a message matches; the text lists the messages in the outbox.
        """
        found = self._found(expected)
        if found:
            raise AssertionError(f"{len(found)} messages match {expected}, but none should.  {self._contents()}")

    def _found(self, expected: Mapping[str, str]) -> list[OutboxMessage]:
        unknown = set(expected) - set(_MATCHES)
        if unknown:
            raise TypeError(f"{', '.join(sorted(unknown))}: expected values must be of {', '.join(_MATCHES)}")
        return [
            message
            for message in self.messages
            if all(_MATCHES[name](message, value) for name, value in expected.items())
        ]

    def _contents(self) -> str:
        lines = [_line(message) for message in self.messages]
        return "In the outbox:\n" + "\n".join(lines) if lines else "The outbox is empty."


def _line(message: OutboxMessage) -> str:
    addresses = _addresses(message)
    return f"{message.pk}: to {addresses}, subject {message.subject!r}, tag {message.tag!r}, {message.status}"


def _addresses(message: OutboxMessage) -> list[str]:
    return [recipient.address for recipient in message.recipients.all()]


#: Name of an expected value -> function that returns whether a message has this value.
_MATCHES: Mapping[str, Callable[[OutboxMessage, str], bool]] = {
    "to": lambda message, value: value.lower() in (address.lower() for address in _addresses(message)),
    "subject": lambda message, value: message.subject == value,
    "body": lambda message, value: value in message.body_text or value in message.body_html,
    "tag": lambda message, value: message.tag == value,
    "account": lambda message, value: message.account.name == value,
    "status": lambda message, value: message.status == value,
}
