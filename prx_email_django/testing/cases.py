"""The kit for Django's test cases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.test import TestCase

from prx_email_django.models import OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.testing.outbox import TestOutbox, kit_settings


class OutboxMixin:
    """In front of any Django test case with a database: ``class MyTest(OutboxMixin, TransactionTestCase)``."""

    #: The messages of this test, and what was delivered.
    outbox: TestOutbox

    @classmethod
    def setUpClass(cls) -> None:
        """Let mail go through the outbox, into memory, from here to the end of the class."""
        cls.enterClassContext(kit_settings())  # type: ignore[attr-defined]
        super().setUpClass()  # type: ignore[misc]

    def setUp(self) -> None:
        """Begin with nothing delivered and the default account there."""
        self.outbox = TestOutbox()
        self.outbox.prepare()
        super().setUp()  # type: ignore[misc]

    def deliver(self, *, now: datetime | None = None) -> DrainReport:
        """Send what is due, into memory."""
        return self.outbox.deliver(now=now)

    def fail_next(self, phase: str = "connect", reply: str = "", **options: Any) -> None:
        """Let the next attempt fail: see ``TestOutbox.fail_next``."""
        self.outbox.fail_next(phase, reply, **options)

    def assert_queued(self, *, count: int = 1, **wanted: str) -> OutboxMessage:
        """Assert what is queued: see ``TestOutbox.assert_queued``."""
        return self.outbox.assert_queued(count=count, **wanted)

    def assert_not_queued(self, **wanted: str) -> None:
        """Assert what is not queued: see ``TestOutbox.assert_not_queued``."""
        self.outbox.assert_not_queued(**wanted)


class OutboxTestCase(OutboxMixin, TestCase):
    """Django's ``TestCase`` with the kit."""
