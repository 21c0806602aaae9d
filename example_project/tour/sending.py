"""Steps: mail that simply goes out."""

from __future__ import annotations

from django.core.mail import send_mail
from django.db import transaction

import prx_email_django as prx
from example_project.shop.models import Order
from example_project.shop.orders import PaymentFailed, place_order
from example_project.tour.paper import one_page
from example_project.tour.telling import Scene, Step, Told, expect, one_copy
from prx_email_django.models import DeliveryAttempt, OutboxMessage


def send_now(scene: Scene) -> Told:
    """One attempt, now."""
    result = prx.send(
        account="orders", to="Ann <ann@example.org>", subject="Welcome", body_text="We are glad that you are here.\n"
    )
    expect("status", result.status, "sent")
    letter = one_copy(scene, result.provider_message_id)
    expect("login", letter["X-Logged-In"], "PLAIN orders@shop.example")
    peer = DeliveryAttempt.objects.get(message_id=result.outbox_id).peer
    return Told("sent", (f"by {peer}, password (AUTH PLAIN)", f"as {result.provider_message_id}"))


def in_a_transaction(scene: Scene) -> Told:
    """The order and its receipt: both or neither."""
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
    one_copy(scene, message.provider_message_id)
    return Told(
        "sent",
        (
            "payment failed: no order, no message",
            f"paid: order {order.pk} and message {message.pk} committed, pending",
            f"a drain sent it: {message.message_id}",
        ),
    )


def by_django(scene: Scene) -> Told:
    """Django's own function, the outbox as its backend."""
    with transaction.atomic():
        send_mail("New order", "There is an order.", None, ["staff@shop.example"])
    message = OutboxMessage.objects.latest("pk")
    expect("status after send_mail", message.status, "pending")
    expect("sent by the drain", prx.drain().sent, 1)
    letter = one_copy(scene, message.message_id)
    expect("sender", letter["From"], "Lantern Books <orders@shop.example>")
    return Told("sent", ("queued with the caller's transaction, then sent", f"from {letter['From']}"))


def with_a_token(scene: Scene) -> Told:
    """An account that has no password."""
    message = prx.enqueue(account="newsletter", to="ben@example.org", subject="News", body_text="There is news.\n")
    expect("sent by the drain", prx.drain().sent, 1)
    letter = one_copy(scene, message.message_id)
    expect("login", letter["X-Logged-In"], "XOAUTH2 newsletter@shop.example")
    return Told(
        "sent",
        (
            "STARTTLS, then AUTH XOAUTH2",
            f"access token fetched from 127.0.0.1:{scene.ports['token']}/token,",
            "and kept, encrypted, until it expires",
        ),
    )


def attachments(scene: Scene) -> Told:
    """What arrives is what was attached."""
    files = {
        "invoice.pdf": ("application/pdf", one_page("Invoice 1: The Lighthouse, 12.00")),
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
    letter = one_copy(scene, result.provider_message_id)
    arrived = {part.get_filename(): part.get_payload(decode=True) for part in letter.iter_attachments()}
    expect("attachments in the inbox", arrived, {name: content for name, (_, content) in files.items()})
    told = tuple(f"{name}, {len(content)} bytes, arrived unchanged" for name, (_, content) in files.items())
    return Told("sent", told)


STEPS = (
    Step("Send a message at once, over TLS", send_now),
    Step("Keep an order and queue its receipt in one transaction", in_a_transaction),
    Step("Call Django's send_mail() inside a transaction", by_django),
    Step("Log in with an OAuth token", with_a_token),
    Step("Attach a PDF and a text", attachments),
)
