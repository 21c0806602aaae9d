"""Fixtures for pytest-django: ``pytest_plugins = ["prx_email_django.testing.pytest"]`` in the root ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prx_email_django.testing.outbox import TestOutbox, kit_settings


@pytest.fixture
def outbox(db: None) -> Iterator[TestOutbox]:
    """The outbox of this test: mail sent through Django is queued; ``outbox.deliver()`` sends it into memory."""
    with kit_settings():
        test_outbox = TestOutbox()
        test_outbox.prepare()
        yield test_outbox
