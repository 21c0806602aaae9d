"""Real mail servers, each started once; a server that cannot be installed skips its tests, and fails them in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import pytest

from tests.servers.exim import exim
from tests.servers.installing import Missing
from tests.servers.messages import Server
from tests.servers.npm_smtp_server import npm_smtp_server
from tests.servers.postfix import postfix
from tests.servers.private_ca import PrivateCA

T = TypeVar("T")
CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PrivateCA:
    """A certificate authority that only these tests trust."""
    return PrivateCA(tmp_path_factory.mktemp("ca"))


def started(stack: ExitStack, server: AbstractContextManager[T]) -> T:
    """Start a server; where it cannot be installed, skip the test, or with CI=true fail it."""
    try:
        return stack.enter_context(server)
    except Missing as reason:
        (pytest.fail if CI else pytest.skip)(str(reason))


@pytest.fixture(scope="session")
def postfix_server(ca: PrivateCA) -> Iterator[Server]:
    """Postfix, which authenticates with Dovecot."""
    with ExitStack() as stack:
        yield started(stack, postfix(ca))


@pytest.fixture(scope="session")
def exim_server(ca: PrivateCA) -> Iterator[Server]:
    """Exim."""
    with ExitStack() as stack:
        yield started(stack, exim(ca))


@pytest.fixture(scope="session")
def npm_server(ca: PrivateCA) -> Iterator[Server]:
    """npm's smtp-server."""
    with ExitStack() as stack:
        yield started(stack, npm_smtp_server(ca))
