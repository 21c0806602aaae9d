"""The test suite must never send mail to a real server."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import is_loopback


def test_a_test_cannot_reach_another_machine() -> None:
    with socket.socket() as client, pytest.raises(RuntimeError, match="loopback only"):
        client.connect(("192.0.2.1", 25))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 25), True),
        (("::1", 25, 0, 0), True),
        (("localhost", 25), True),
        ("/run/local.sock", True),
        (("10.0.0.1", 25), False),
        (("smtp.example.com", 25), False),
        (("::ffff:192.0.2.1", 25, 0, 0), False),
    ],
)
def test_loopback_is_distinguished_from_other_machines(address: object, expected: bool) -> None:
    assert is_loopback(address) is expected
