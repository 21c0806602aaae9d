"""The point of the example: the order and its receipt in one transaction."""

from __future__ import annotations

from email.utils import formataddr

from django.db import transaction

import prx_email_django as prx
from example_project.shop.models import Order
from prx_email_django.models import OutboxMessage


class PaymentFailed(Exception):
    """The shop found out late that nobody pays."""


def place_order(*, name: str, email: str, book: str, fail: bool = False) -> tuple[Order, OutboxMessage]:
    """Keep the order and queue its receipt; no mail server is asked, so it is quick and works while none answers.

    With ``fail`` something goes wrong at the very end: neither order nor receipt has ever existed.
    """
    with transaction.atomic():
        order = Order.objects.create(name=name, email=email, book=book)
        message = prx.enqueue(
            account="orders",
            to=formataddr((name, email)),
            subject=f"Your order {order.pk}: {book}",
            body_text=f"Dear {name},\n\nwe have put {book} aside for you.\n\nLantern Books\n",
            idempotency_key=f"receipt-{order.pk}",
            tag="receipt",
        )
        if fail:
            raise PaymentFailed
    return order, message
