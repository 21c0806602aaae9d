"""Steps in which every message is accepted."""

from __future__ import annotations

from pathlib import Path

from django.core.mail import send_mail
from django.db import transaction

import prx_email_django as prx
from example_project.demo.steps import DemoContext, Step, StepResult, expect, single_copy
from example_project.shop.models import Order
from example_project.shop.orders import PaymentFailed, place_order
from prx_email_django.models import DeliveryAttempt, OutboxMessage

INVOICE = Path(__file__).with_name("invoice.pdf")


def send_now(context: DemoContext) -> StepResult:
    """``send`` makes one attempt at once."""
    result = prx.send(
        account="orders", to="Ann <ann@example.org>", subject="Welcome", body_text="We are glad that you are here.\n"
    )
    expect("status", result.status, "sent")
    email = single_copy(context, result.provider_message_id)
    expect("authentication", email["X-Authenticated"], "PLAIN orders@shop.example")
    peer = DeliveryAttempt.objects.get(message_id=result.outbox_id).peer
    return StepResult(
        "sent",
        (
            "send() makes one attempt and returns the result.",
            f"Mail server: {peer}, authenticated with a password (AUTH PLAIN).",
            f"Message-ID: {result.provider_message_id}",
        ),
    )


def queue_in_transaction(context: DemoContext) -> StepResult:
    """``enqueue`` commits the order and its receipt together, or neither."""
    before = OutboxMessage.objects.count()
    try:
        place_order(name="Ann", email="ann@example.org", book="The Lighthouse", fail=True)
    except PaymentFailed:
        expect("orders after the rollback", Order.objects.count(), 0)
    expect("messages after the rollback", OutboxMessage.objects.count(), before)
    order, message = place_order(name="Ann", email="ann@example.org", book="The Lighthouse")
    expect("status after the commit", message.status, "pending")
    expect("sent by the drain", prx.drain().sent, 1)
    message.refresh_from_db()
    single_copy(context, message.provider_message_id)
    return StepResult(
        "sent",
        (
            "The payment failed: the transaction was rolled back, so neither order nor message exists.",
            f"The payment succeeded: order {order.pk} and message {message.pk} were committed together.",
            f"Then a drain sent the message: {message.message_id}",
        ),
    )


def send_by_django(context: DemoContext) -> StepResult:
    """Django's ``send_mail`` queues a message through the email backend."""
    with transaction.atomic():
        send_mail("New order", "There is an order.", None, ["staff@shop.example"])
    message = OutboxMessage.objects.latest("pk")
    expect("status after send_mail", message.status, "pending")
    expect("sent by the drain", prx.drain().sent, 1)
    email = single_copy(context, message.message_id)
    expect("sender", email["From"], "Lantern Books <orders@shop.example>")
    return StepResult(
        "sent",
        ("The message was queued in the caller's transaction, then a drain sent it.", f"From: {email['From']}"),
    )


def authenticate_by_token(context: DemoContext) -> StepResult:
    """An account authenticates with an OAuth access token instead of a password."""
    message = prx.enqueue(account="newsletter", to="ben@example.org", subject="News", body_text="There is news.\n")
    expect("sent by the drain", prx.drain().sent, 1)
    email = single_copy(context, message.message_id)
    expect("authentication", email["X-Authenticated"], "XOAUTH2 newsletter@shop.example")
    return StepResult(
        "sent",
        (
            f"The access token came from http://127.0.0.1:{context.ports['token']}/token.",
            "It is stored encrypted and used until it expires.",
            "Connection: STARTTLS, then AUTH XOAUTH2.",
        ),
    )


def attach_files(context: DemoContext) -> StepResult:
    """Attachments arrive byte for byte."""
    files = {
        "invoice.pdf": ("application/pdf", INVOICE.read_bytes()),
        "terms.txt": ("text/plain", "Read before you return a book. Überall gültig.\n".encode()),
    }
    result = prx.send(
        account="orders",
        to="ann@example.org",
        subject="Your invoice",
        body_text="Attached.\n",
        attachments=[prx.AttachmentInput(name, kind, content=content) for name, (kind, content) in files.items()],
    )
    expect("status", result.status, "sent")
    email = single_copy(context, result.provider_message_id)
    arrived = {part.get_filename(): part.get_payload(decode=True) for part in email.iter_attachments()}
    expect("attachments in the inbox", arrived, {name: content for name, (_, content) in files.items()})
    lines = tuple(f"{name}: {len(content)} bytes, arrived unchanged" for name, (_, content) in files.items())
    return StepResult("sent", lines)


STEPS = (
    Step("Send a message at once over TLS", send_now),
    Step("Save an order and queue its receipt in one transaction", queue_in_transaction),
    Step("Call Django's send_mail() in a transaction", send_by_django),
    Step("Authenticate with an OAuth token", authenticate_by_token),
    Step("Attach a PDF file and a text file", attach_files),
)
