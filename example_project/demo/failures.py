"""Steps in which an attempt fails or its outcome is unknown, and a reply to a received message."""

from __future__ import annotations

import prx_email_django as prx
from example_project.demo.steps import DemoContext, Step, StepResult, expect, single_copy
from prx_email_django.models import OutboxMessage
from prx_email_django.status.facts import message_reason

QUESTION = (
    b"From: Ann <ann@example.org>\r\nTo: orders@shop.example\r\nSubject: Is it signed?\r\n"
    b"Message-ID: <question@example.org>\r\nReferences: <earlier@example.org>\r\n\r\nIs the book signed?\r\n"
)


def refuse_recipient(context: DemoContext) -> StepResult:
    """The server refuses one of three recipients."""
    result = prx.send(
        account="orders",
        to=["ann@example.org", "nobody@example.org", "ben@example.org"],
        subject="Reading on Friday",
        body_text="Come at eight.\n",
    )
    expect("status", result.status, "sent")
    refused = OutboxMessage.objects.get(pk=result.outbox_id).refused_recipients
    expect("refused", list(refused), ["nobody@example.org"])
    email = single_copy(context, result.provider_message_id)
    expect("recipients", email["X-Envelope-To"], "ann@example.org, ben@example.org")
    reply = refused["nobody@example.org"]
    return StepResult(
        "sent, 1 recipient refused",
        (
            "ann@example.org and ben@example.org: accepted",
            f"nobody@example.org: refused with “{reply['code']} {reply['text']}”",
        ),
    )


def fail_temporarily(context: DemoContext) -> StepResult:
    """The server asks to try again later."""
    result = prx.send(account="orders", to="busy@example.org", subject="Your order", body_text="It is on its way.\n")
    expect("status", result.status, "failed")
    expect("retries", result.retries, 1)
    message = OutboxMessage.objects.get(pk=result.outbox_id)
    assert message.next_attempt_at is not None  # noqa: S101  (else the drain below would wait for nothing)
    wait = (message.next_attempt_at - message.delivery_attempts.get().finished_at).total_seconds()
    expect("sent before it is due", prx.drain().sent, 0)
    expect("sent by a later drain", prx.drain(wait=True, time_budget=20).sent, 1)
    message.refresh_from_db()
    single_copy(context, message.provider_message_id)
    return StepResult(
        "failed, then sent",
        (
            f"The server replied “{result.error}”.",
            f"The next attempt is due after {wait:.0f} s; the wait doubles after each failure.",
            "A drain before that time sent nothing; a drain after it sent the message.",
        ),
    )


def reply_in_thread(context: DemoContext) -> StepResult:
    """A reply continues the thread of a received message."""
    prx.record_inbound("orders", QUESTION)
    result = prx.reply(account="orders", in_reply_to_message_id="<question@example.org>", body_text="It is.\n")
    expect("status", result.status, "sent")
    email = single_copy(context, result.provider_message_id)
    thread = (email["Subject"], email["In-Reply-To"], email["References"], email["X-Envelope-To"])
    expected = ("Re: Is it signed?", "<question@example.org>", "<earlier@example.org> <question@example.org>")
    expect("subject, thread and recipient", thread, (*expected, "ann@example.org"))
    return StepResult(
        "sent",
        (
            f"“{email['Subject']}” went to ann@example.org, the sender of the question.",
            f"In-Reply-To: {email['In-Reply-To']}",
        ),
    )


def lose_connection(context: DemoContext) -> StepResult:
    """The connection is lost after the whole message and before the server's reply: the outcome is unknown."""
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
    reason = message_reason(message)
    single_copy(context, message.message_id)
    expect("confirmed", prx.confirm_outbox([message.pk]).changed, 1)
    message.refresh_from_db()
    expect("status after confirming", message.status, "sent")
    return StepResult(
        "held, then confirmed as sent",
        (
            "The server stored the message, but closed the connection before its reply.",
            f"State of the message: “{reason}”.",
            'Because of on_unknown="hold" no drain sends a second copy.',
            "The message is in the inbox, so confirm_outbox() confirmed it: its status is now “sent”.",
        ),
    )


STEPS = (
    Step("Send to three recipients, one of which does not exist", refuse_recipient),
    Step("Send to a mailbox that is busy at first", fail_temporarily),
    Step("Reply to a received message", reply_in_thread),
    Step("Lose the connection before the server's final reply", lose_connection),
)
