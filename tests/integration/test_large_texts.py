"""Large texts are in memory for as long as they are needed, and are there whenever somebody asks for them."""

from __future__ import annotations

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import OutboxMessage
from prx_email_django.signals import message_sent
from prx_email_django.store import claims
from prx_email_django.store.cursor import ClaimCursor
from prx_email_django.transports.memory import shared
from prx_email_django.worker.outgoing import LARGE_TEXT, ClaimedMessage
from tests.support.factories import SECOND, account, at, backlog, message, take, take_one

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("memory_transport")]

LARGE = "a line of 25 characters.\n" * (LARGE_TEXT // 25 + 1)


def test_a_rendered_message_keeps_its_large_texts_no_longer() -> None:
    owner = account()
    message(owner)
    message(owner, body_html=f"<p>{LARGE}</p>")
    for claim, is_kept in zip(take(owner), (True, False), strict=True):
        claimed = ClaimedMessage(claim, clock=at())
        assert claimed.render() is None
        assert ("body_html" in vars(claimed.claim.message)) is is_kept


def test_a_claim_whose_texts_were_dropped_is_rendered_once_more() -> None:
    claim = take_one(message(account(), body_text=LARGE))
    first, second = ClaimedMessage(claim, clock=at()), ClaimedMessage(claim, clock=at())
    assert first.render() is None
    assert second.render() is None
    assert b"a line of 25 characters." in first.body
    assert first.body == second.body


@pytest.mark.parametrize("is_sensitive", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_receiver_finds_the_large_text_of_a_message_that_was_sent(is_async: bool, is_sensitive: bool) -> None:
    """It has the text with it: an ``async`` receiver cannot read, and that of a sensitive message is erased by then."""
    heard: list[str] = []

    async def async_receiver(message: OutboxMessage, **_: object) -> None:
        heard.append(message.body_text)

    def usual_receiver(message: OutboxMessage, **_: object) -> None:
        heard.append(message.body_text)

    prx.enqueue(account=account(), to=["a@x.org"], subject="s", body_text=LARGE, is_sensitive=is_sensitive)
    receiver = async_receiver if is_async else usual_receiver
    message_sent.connect(receiver)
    try:
        assert prx.drain().sent == len(shared.delivered) == 1
    finally:
        message_sent.disconnect(receiver)
    assert heard == [LARGE]


def test_large_messages_that_are_too_old_hold_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that takes one of them leaves nothing to render and nothing to wait for: the next one is made at once."""
    monkeypatch.setattr(claims, "TEXT_LIMIT", len(LARGE))
    backlog(account(), 12, body_text=LARGE)
    OutboxMessage.objects.update(expires_at=timezone.now() - SECOND)
    report = prx.drain()
    assert report.expired == 12
    assert report.seconds < 6, "a second for each"


def test_a_claim_ends_where_the_texts_are_large_and_the_drain_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than were asked for is not the end of the queue."""
    monkeypatch.setattr(claims, "TEXT_LIMIT", 2 * len(LARGE))
    owner = account(max_connections=2)
    backlog(owner, 9, body_text=LARGE)
    cursor = ClaimCursor()
    sizes = []
    for _ in range(2):
        batch = claims.claim(owner.pk, limit=8, hold_limit=1, clock=at(None), cursor=cursor)
        sizes.append((len(batch.claims), batch.has_more))
        claims.release(batch.claims)
    assert sizes == [(2, True), (2, True)]
    report = prx.drain()
    assert (report.sent, report.released) == (9, 0)
    assert len({delivery.message["Message-ID"] for delivery in shared.delivered}) == 9
