"""Steps: mail that meets trouble, and what becomes of it."""

from __future__ import annotations

import prx_email_django as prx
from example_project.tour.telling import Scene, Step, Told, expect, one_copy
from prx_email_django.models import OutboxMessage
from prx_email_django.status.figures import message_reason


def refused_recipient(scene: Scene) -> Told:
    """One address of three does not exist."""
    result = prx.send(
        account="orders",
        to=["ann@example.org", "nobody@example.org", "ben@example.org"],
        subject="Reading on Friday",
        body_text="Come at eight.\n",
    )
    expect("status", result.status, "sent")
    refused = OutboxMessage.objects.get(pk=result.outbox_id).refused_recipients
    expect("refused", list(refused), ["nobody@example.org"])
    letter = one_copy(scene, result.provider_message_id)
    expect("recipients", letter["X-Envelope-To"], "ann@example.org, ben@example.org")
    why = refused["nobody@example.org"]
    return Told(
        "sent, 1 refused",
        ("ann@ and ben@: accepted", f"nobody@: refused, {why['code']} {why['text']}"),
    )


def temporary_failure(scene: Scene) -> Told:
    """The server says: later."""
    result = prx.send(account="orders", to="busy@example.org", subject="Your parcel", body_text="It is on its way.\n")
    expect("status", result.status, "failed")
    expect("retries", result.retries, 1)
    message = OutboxMessage.objects.get(pk=result.outbox_id)
    assert message.next_attempt_at is not None  # noqa: S101  (or the drain below would have nothing to wait for)
    wait = (message.next_attempt_at - message.delivery_attempts.get().finished_at).total_seconds()
    expect("sent before it is due", prx.drain().sent, 0)
    expect("sent by a later drain", prx.drain(wait=True, time_budget=20).sent, 1)
    message.refresh_from_db()
    one_copy(scene, message.provider_message_id)
    return Told(
        "failed, then sent",
        (
            f"the server: {result.error}",
            f"so it waits {wait:.0f} s, twice that after the next failure",
            "a drain before that: nothing to do",
            "a drain after that: sent",
        ),
    )


def reply_in_thread(scene: Scene) -> Told:
    """Answer a letter that came in."""
    question = (
        b"From: Ann <ann@example.org>\r\nTo: orders@shop.example\r\nSubject: Is it signed?\r\n"
        b"Message-ID: <question@example.org>\r\nReferences: <earlier@example.org>\r\n\r\nIs the book signed?\r\n"
    )
    prx.record_inbound("orders", question)
    result = prx.reply(account="orders", in_reply_to_message_id="<question@example.org>", body_text="It is.\n")
    expect("status", result.status, "sent")
    letter = one_copy(scene, result.provider_message_id)
    thread = (letter["Subject"], letter["In-Reply-To"], letter["References"], letter["X-Envelope-To"])
    expected = ("Re: Is it signed?", "<question@example.org>", "<earlier@example.org> <question@example.org>")
    expect("subject, thread and recipient", thread, (*expected, "ann@example.org"))
    return Told("sent", (f"“{letter['Subject']}” to ann@example.org", f"in the thread of {letter['In-Reply-To']}"))


def unknown_outcome(scene: Scene) -> Told:
    """The connection breaks after the last dot: nobody knows whether the server has it."""
    result = prx.send(
        account="orders",
        to="silent@example.org",
        subject="Your voucher",
        body_text="It is worth 10.00, once.\n",
        on_unknown="hold",
    )
    expect("status and code", (result.status, result.error_code), ("failed", "unknown_outcome"))
    message = OutboxMessage.objects.get(pk=result.outbox_id)
    expect("may have been delivered", message.may_have_been_delivered, True)
    expect("sent again by a drain", prx.drain().claimed, 0)
    held = message_reason(message)
    one_copy(scene, message.message_id)
    expect("confirmed", prx.confirm_outbox([message.pk]).changed, 1)
    message.refresh_from_db()
    expect("status after confirming", message.status, "sent")
    return Told(
        "held, then sent",
        (
            "the server took it, and hung up before it said so",
            f"{held}",
            'on_unknown="hold": no drain sends it a second time',
            "it is in the inbox, so a person confirms it: sent",
        ),
    )


STEPS = (
    Step("Send to three people, one of whom does not exist", refused_recipient),
    Step("Send to a mailbox that is busy for now", temporary_failure),
    Step("Reply to a letter that came in", reply_in_thread),
    Step("Lose the connection between the message and the server's “250”", unknown_outcome),
)
