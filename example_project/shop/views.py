"""The shop's page, and the inbox of the mail server of the example."""

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
    """The order form, and where the last messages stand."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            order, message = place_order(**form.cleaned_data)
        except PaymentFailed:
            messages.error(request, "The payment failed: no order was kept, and no receipt was queued.")
        else:
            messages.success(request, f"Order {order.pk} is kept, and message {message.pk} is queued.")
        return redirect("shop")
    return render(request, "shop/shop.html", {"form": form, "rows": _last_messages()})


def _last_messages() -> list[dict[str, Any]]:
    now = timezone.now()
    facts = account_facts(now=now)
    last = OutboxMessage.objects.select_related("account").prefetch_related("recipients").order_by("-pk")[:SHOWN]
    return [{"message": one, "why": message_reason(one, account=facts[one.account_id], now=now)} for one in last]


@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    """The last messages that the mail server has taken."""
    letters = [
        {
            "name": name,
            "subject": header["Subject"],
            "sender": header["From"],
            "recipients": header["X-Envelope-To"],
            "login": header["X-Logged-In"],
        }
        for name, header in Inbox(settings.INBOX).headers(SHOWN)
    ]
    return render(request, "shop/inbox.html", {"letters": letters})


@require_safe
def letter(request: HttpRequest, name: str) -> HttpResponse:
    """One of them, as it came over the wire."""
    try:
        message = Inbox(settings.INBOX).read(name)
    except KeyError as error:
        raise Http404 from error
    text = message.get_body(("plain", "html"))
    files = [(part.get_filename(), part.get_content_type()) for part in message.iter_attachments()]
    context = {
        "subject": message["Subject"],
        "header": message.items(),
        "text": text.get_content() if text else "",
        "files": files,
    }
    return render(request, "shop/letter.html", context)
