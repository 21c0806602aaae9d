"""A pytest plugin: tests with a database send through the outbox, and all their mail must reach an SMTP server.

Tests in classes of ``django.test.TestCase`` are left out: their transaction ends before a fixture could drain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes, policy
from typing import Any

import pytest

SEEN: Counter[str] = Counter()


@pytest.fixture(scope="session")
def smtp_controller() -> Iterator[Any]:
    """The SMTP server."""
    import foreign_catcher

    controller = foreign_catcher.start()
    yield controller
    controller.stop()


@pytest.fixture(autouse=True)
def through_the_outbox(request: pytest.FixtureRequest, settings: Any, smtp_controller: Any) -> Iterator[None]:
    """Enqueue what the test sends; afterwards drain, and compare what arrived with what was sent."""
    with_database = request.node.get_closest_marker("django_db") or "db" in request.fixturenames
    if not with_database:
        yield
        return
    import foreign_catcher
    from django.core import mail
    from foreign_backend import CountingBackend

    request.getfixturevalue("db")
    path = "foreign_backend.CountingBackend"
    if hasattr(mail, "mailers"):
        settings.MAILERS = {"default": {"BACKEND": path}}
    else:
        settings.EMAIL_BACKEND = path
    foreign_catcher.prepare(smtp_controller)
    CountingBackend.sent.clear()
    yield
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "foreign", "WAKE": ""}
    caught = [
        (str(message_from_bytes(message.content, policy=policy.default)["Subject"]), sorted(message.rcpt_tos))
        for message in foreign_catcher.drained()
    ]
    assert sorted(caught) == sorted(CountingBackend.sent)
    SEEN["messages"] += len(caught)
    SEEN["tests that sent"] += bool(caught)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many messages were sent by how many tests."""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(SEEN.items()))
    terminalreporter.write_line(f"through the outbox into an SMTP server: {counts or 'nothing'}")
