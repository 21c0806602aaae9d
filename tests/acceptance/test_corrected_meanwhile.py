"""A person corrects an account while a worker tries the old login: what comes of it says nothing of the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage
from tests.support.factories import account_on, mail
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining, Sending

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


def corrected_meanwhile(server: SmtpServer, owner: Account, begin: Callable[[], T]) -> T:
    """Begin, and correct the password while the first login waits for its answer."""
    stalled = server.on("auth", stall=True, nth=1)
    begun = begin()
    assert stalled.reached.wait(PATIENCE)
    owner.password = "new"
    owner.save(update_fields=["password"])
    server.release(stalled)
    return begun


def test_a_drain_goes_on_with_the_new_password() -> None:
    with SmtpServer(users={"ann": "new"}) as server:
        owner = account_on(server, user="ann", password="old", auth_method="password")
        prx.enqueue(**mail(owner))
        draining = corrected_meanwhile(server, owner, Draining)
        assert draining.outcome().sent == 1
        assert OutboxMessage.objects.get().status == "sent"
        assert owner.pause_reason == ""


def test_send_is_tried_with_the_new_password() -> None:
    with SmtpServer(users={"ann": "new"}) as server:
        owner = account_on(server, user="ann", password="old", auth_method="password")
        sending = corrected_meanwhile(server, owner, lambda: Sending(**mail(owner)))
        assert sending.outcome().status == "sent"
        assert owner.pause_reason == ""


def test_a_wrong_new_password_pauses() -> None:
    with SmtpServer(users={"ann": "right"}) as server:
        owner = account_on(server, user="ann", password="old", auth_method="password")
        prx.enqueue(**mail(owner))
        draining = corrected_meanwhile(server, owner, Draining)
        assert draining.outcome().sent == 0
        assert owner.pause_reason
        assert len(server.auth_attempts) == 2
