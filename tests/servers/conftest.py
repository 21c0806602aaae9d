"""Real servers, each started once; where one cannot be had that is said, and in CI it is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.servers.exim import exim
from tests.servers.installing import Missing
from tests.servers.messages import Server
from tests.servers.npm_smtp_server import npm_smtp_server
from tests.servers.postfix import postfix
from tests.servers.private_ca import PrivateCA

CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PrivateCA:
    """Trusted by nobody else."""
    return PrivateCA(tmp_path_factory.mktemp("ca"))


def had(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    """Start it; say where it cannot be had, which with CI=true is a failure."""
    try:
        return stack.enter_context(server)
    except Missing as reason:
        (pytest.fail if CI else pytest.skip)(str(reason))


@pytest.fixture(scope="session")
def postfix_server(ca: PrivateCA) -> Iterator[Server]:
    """Postfix with Dovecot."""
    with ExitStack() as stack:
        yield had(stack, postfix(ca))


@pytest.fixture(scope="session")
def exim_server(ca: PrivateCA) -> Iterator[Server]:
    """Exim."""
    with ExitStack() as stack:
        yield had(stack, exim(ca))


@pytest.fixture(scope="session")
def npm_server(ca: PrivateCA) -> Iterator[Server]:
    """npm's smtp-server."""
    with ExitStack() as stack:
        yield had(stack, npm_smtp_server(ca))
