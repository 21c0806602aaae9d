"""Fixtures for tests with the database and without sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prx_email_django.transports.memory import shared
from tests.support.factories import MEMORY


@pytest.fixture
def memory_transport(settings: Any) -> Iterator[None]:
    """Deliver to the memory transport, which is empty at the beginning and at the end."""
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()
