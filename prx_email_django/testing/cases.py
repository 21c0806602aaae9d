"""Test kit for Django's test cases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.test import TestCase

from prx_email_django.models import OutboxMessage
from prx_email_django.results import DrainReport
from prx_email_django.testing.outbox import TestOutbox, kit_settings


class OutboxMixin:
    """Put before any Django test case with a database: ``class MyTest(OutboxMixin, TransactionTestCase)``."""

    #: The queued and the delivered messages of this test.
    outbox: TestOutbox

    @classmethod
    def setUpClass(cls) -> None:
        """Route mail through the outbox into memory until the end of the class."""
        cls.enterClassContext(kit_settings())  # type: ignore[attr-defined]
        super().setUpClass()  # type: ignore[misc]

    def setUp(self) -> None:
        """Clear the delivered messages, and create the default account if it does not exist."""
        self.outbox = TestOutbox()
        self.outbox.prepare()
        super().setUp()  # type: ignore[misc]

    def deliver(self, *, now: datetime | None = None) -> DrainReport:
        """Send due messages into memory."""
        return self.outbox.deliver(now=now)

    def fail_next(self, phase: str = "connect", reply: str = "", **options: Any) -> None:
        """Make the next attempts fail: see ``TestOutbox.fail_next``."""
        self.outbox.fail_next(phase, reply, **options)

    def assert_queued(self, *, count: int = 1, **expected: str) -> OutboxMessage:
        """Assert that messages are queued: see ``TestOutbox.assert_queued``."""
        return self.outbox.assert_queued(count=count, **expected)

    def assert_not_queued(self, **expected: str) -> None:
        """Assert that no message is queued: see ``TestOutbox.assert_not_queued``."""
        self.outbox.assert_not_queued(**expected)


class OutboxTestCase(OutboxMixin, TestCase):
    """Django's ``TestCase`` with the kit."""
