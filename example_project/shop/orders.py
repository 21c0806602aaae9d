"""The purpose of the example: an order and its receipt in one transaction."""

from __future__ import annotations

from email.utils import formataddr

from django.db import transaction

import prx_email_django as prx
from example_project.shop.models import Order
from prx_email_django.models import OutboxMessage


class PaymentFailed(Exception):
    """The payment failed after the receipt was queued."""


def place_order(*, name: str, email: str, book: str, fail: bool = False) -> tuple[Order, OutboxMessage]:
    """Save the order and queue its receipt.  This is fast and also works while no mail server answers.

    With ``fail`` the payment fails at the end, and the rollback removes both the order and the receipt.

    Raises:
        PaymentFailed: ``fail`` is set.
    """
    with transaction.atomic():
        order = Order.objects.create(name=name, email=email, book=book)
        message = prx.enqueue(
            account="orders",
            to=formataddr((name, email)),
            subject=f"Your order {order.pk}: {book}",
            body_text=f"Dear {name},\n\nwe have reserved {book} for you.\n\nLantern Books\n",
            idempotency_key=f"receipt-{order.pk}",
            tag="receipt",
        )
        if fail:
            raise PaymentFailed
    return order, message


def receipt_of(order: Order) -> OutboxMessage | None:
    """Return the receipt of an order; None if the outbox has deleted it after its retention time."""
    return OutboxMessage.objects.filter(idempotency_key=f"receipt-{order.pk}").first()
