"""What a test holds in its hand: the queue, a drain, and what was delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.test import override_settings

from prx_email_django import api
from prx_email_django.conf import configures_mail_by_email_settings, mailers, outbox_settings, prx_email
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.transports.memory import Delivered, shared

BACKEND = "prx_email_django.testing.backend.EmailBackend"
#: Name of the account that is made where ``DEFAULT_ACCOUNT`` names none.
ACCOUNT = "test"
#: What a server says to a wrong password (RFC 4954 §6).
LOGIN_REFUSED = "535 5.7.8 authentication credentials invalid"


def kit_settings() -> override_settings:
    """The settings of a test: mail goes through the outbox, into memory, and wakes nobody."""
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

    #: Not a test class, whatever its name says.
    __test__ = False

    def prepare(self) -> None:
        """Begin a test: forget what the last one delivered, and make the default account where it is missing."""
        shared.reset()
        defaults = {"host": "localhost", "port": 25, "auth_method": "none", "email": "test@example.com"}
        Account.objects.get_or_create(name=outbox_settings().default_account, defaults=defaults)

    @property
    def messages(self) -> list[OutboxMessage]:
        """All messages, whatever became of them."""
        return list(OutboxMessage.objects.order_by("pk"))

    def __len__(self) -> int:
        return OutboxMessage.objects.count()

    def __iter__(self) -> Iterator[OutboxMessage]:
        return iter(self.messages)

    def __getitem__(self, index: int) -> OutboxMessage:
        return self.messages[index]

    @property
    def delivered(self) -> Sequence[Delivered]:
        """What the memory transport has accepted, in order: ``sender``, ``recipients``, ``body``, ``message``."""
        return tuple(shared.delivered)

    def deliver(self, *, now: datetime | None = None) -> DrainReport:
        """Send what is due, into memory; ``now`` may be a later time, for what waits or is tried again."""
        return api.drain(now=now)

    def fail_next(
        self, phase: str = "connect", reply: str = "", *, timeout: bool = False, accept: bool = False, times: int = 1
    ) -> None:
        """Let the next attempts fail: see ``MemoryTransport.fail_next``.

        ``fail_next("connect")``: the server cannot be reached.  ``fail_next("auth")``: the login is refused, and the
        account pauses.  ``fail_next("rcpt", "550 5.1.1 no such user")``: the server refuses.  ``fail_next("body")``:
        the connection is lost, and nobody knows whether the message has arrived.
        """
        if phase == "auth" and not reply and not timeout:
            reply = LOGIN_REFUSED
        shared.fail_next(phase, reply, timeout=timeout, accept=accept, times=times)

    def assert_queued(self, *, count: int = 1, **wanted: str) -> OutboxMessage:
        """Assert that exactly ``count`` messages are there of which all that is ``wanted`` is true; returns the last.

        Wanted may be ``to`` (an envelope address: To, Cc and Bcc alike), ``subject``, ``body`` (a piece of the text or
        HTML body), ``tag``, ``account`` (a name) and ``status`` (``pending``, ``sent``, …).

        Raises:
            AssertionError: it says what is there instead.
        """
        found = self._found(wanted)
        if len(found) != count or not found:
            raise AssertionError(f"{len(found)} messages, not {count}, have {wanted}.  {self._contents()}")
        return found[-1]

    def assert_not_queued(self, **wanted: str) -> None:
        """Assert that no message is there of which all that is wanted (see ``assert_queued``) is true.

        Raises:
            AssertionError: there is one.
        """
        found = self._found(wanted)
        if found:
            raise AssertionError(f"{len(found)} messages have {wanted}.  {self._contents()}")

    def _found(self, wanted: Mapping[str, str]) -> list[OutboxMessage]:
        unknown = set(wanted) - set(_WANTED)
        if unknown:
            raise TypeError(f"a message can be told by {', '.join(_WANTED)}, not by {', '.join(sorted(unknown))}")
        return [one for one in self.messages if all(_WANTED[name](one, value) for name, value in wanted.items())]

    def _contents(self) -> str:
        lines = [
            f"{one.pk}: to {_addresses(one)}, subject {one.subject!r}, tag {one.tag!r}, {one.status}"
            for one in self.messages
        ]
        return "In the outbox:\n" + "\n".join(lines) if lines else "The outbox is empty."


def _addresses(message: OutboxMessage) -> list[str]:
    return [one.address for one in message.recipients.all()]


#: What a message can be told by: name -> whether a value is true of it.
_WANTED: Mapping[str, Callable[[OutboxMessage, str], bool]] = {
    "to": lambda message, value: value.lower() in (one.lower() for one in _addresses(message)),
    "subject": lambda message, value: message.subject == value,
    "body": lambda message, value: value in message.body_text or value in message.body_html,
    "tag": lambda message, value: message.tag == value,
    "account": lambda message, value: message.account.name == value,
    "status": lambda message, value: message.status == value,
}
