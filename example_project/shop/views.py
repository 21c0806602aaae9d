"""The shop's page, and the inbox of the example's mail server."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from example_project.catcher.inbox import Inbox
from example_project.shop.forms import OrderForm
from example_project.shop.orders import PaymentFailed, place_order
from prx_email_django.models import OutboxMessage
from prx_email_django.status.figures import account_facts, message_reason

SHOWN = 25


@require_http_methods(["GET", "HEAD", "POST"])
def shop(request: HttpRequest) -> HttpResponse:
    """Show the order form, and the latest messages with their status."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            order, receipt = place_order(**form.cleaned_data)
        except PaymentFailed:
            messages.error(request, "The payment failed: no order was saved, and no receipt was queued.")
        else:
            messages.success(request, f"Order {order.pk} is saved, and message {receipt.pk} is queued.")
        return redirect("shop")
    return render(request, "shop/shop.html", {"form": form, "rows": _latest_messages()})


def _latest_messages() -> list[dict[str, Any]]:
    now = timezone.now()
    facts = account_facts(now=now)
    latest = OutboxMessage.objects.select_related("account").prefetch_related("recipients").order_by("-pk")[:SHOWN]
    return [{"message": row, "reason": message_reason(row, account=facts[row.account_id], now=now)} for row in latest]


@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    """Show the latest messages that the mail server accepted."""
    rows = [
        {
            "name": name,
            "subject": header["Subject"],
            "sender": header["From"],
            "recipients": header["X-Envelope-To"],
            "authenticated": header["X-Authenticated"],
        }
        for name, header in Inbox(settings.INBOX).headers(SHOWN)
    ]
    return render(request, "shop/inbox.html", {"inbox": rows})


@require_safe
def message(request: HttpRequest, name: str) -> HttpResponse:
    """Show one message of the inbox."""
    try:
        email = Inbox(settings.INBOX).read(name)
    except KeyError as error:
        raise Http404 from error
    text = email.get_body(("plain", "html"))
    files = [(part.get_filename(), part.get_content_type()) for part in email.iter_attachments()]
    context = {
        "subject": email["Subject"],
        "header": email.items(),
        "text": text.get_content() if text else "",
        "files": files,
    }
    return render(request, "shop/message.html", context)
