"""The operator's page: how the mail stands, what to do about it, and a provider to play with.

It asks for no login, so that a visitor can play at once; the admin, to which it links, does.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

import prx_email_django as prx
from example_project.catcher.mode import Mode, ModeFile
from example_project.shop.books import BOOKS
from example_project.shop.forms import ModeForm
from example_project.shop.orders import place_order
from prx_email_django.models import OutboxMessage
from prx_email_django.status.facts import account_facts
from prx_email_django.status.figures import outbox_status
from prx_email_django.status.overview import verdict_of
from prx_email_django.status.reasons import message_sentence

SHOWN = 12
CUSTOMERS = ("Ann", "Ben", "Chloé", "Dmitri", "Efua", "Farid", "Grace", "Hiro")


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the provider's mode, the state of the outbox in one sentence, and the latest messages."""
    now = timezone.now()
    mode = ModeFile(settings.VAR).read()
    rows = _latest_messages(now)
    verdict = verdict_of(outbox_status(now=now), now=now)
    context = {
        "modes": list(Mode),
        "mode": mode,
        "verdict": verdict,
        "is_paused": any(cause.can_resume for cause in verdict.causes),
        "rows": rows,
        # Nothing changes by itself while nothing waits: then the page stands still.
        "refresh": any(row["message"].next_attempt_at or row["message"].status == "sending" for row in rows),
        "customers": len(CUSTOMERS),
    }
    return render(request, "shop/operator.html", context)


def _latest_messages(now: Any) -> list[dict[str, Any]]:
    facts = account_facts(now=now)
    latest = OutboxMessage.objects.select_related("account").prefetch_related("recipients").order_by("-pk")[:SHOWN]
    return [{"message": row, "reason": message_sentence(row, facts[row.account_id], now=now)} for row in latest]


@require_POST
def set_mode(request: HttpRequest) -> HttpResponse:
    """Change what the provider does from now on."""
    form = ModeForm(request.POST)
    if form.is_valid():
        ModeFile(settings.VAR).write(form.cleaned_data["mode"])
    return redirect("operator")


@require_POST
def rush(request: HttpRequest) -> HttpResponse:
    """Let several customers order at once."""
    for number, name in enumerate(CUSTOMERS):
        address = f"{name.lower().replace('é', 'e')}@example.org"
        place_order(name=name, email=address, book=BOOKS[number % len(BOOKS)].title)
    messages.success(request, f"{len(CUSTOMERS)} orders are saved, and their receipts queued.")
    return redirect("operator")


@require_POST
def retry(request: HttpRequest, pk: int) -> HttpResponse:
    """Make a message due now; the loop sends it."""
    report = prx.requeue_outbox([pk], force=True)
    if report.changed:
        messages.success(request, f"Message {pk} is tried again.")
    else:
        messages.error(request, f"Message {pk} cannot be tried again: {', '.join(report.refused)}.")
    return redirect("operator")


@require_POST
def resume(request: HttpRequest) -> HttpResponse:
    """End the pause of the account that this page is about."""
    prx.resume_outbox(request.POST.get("account") or None)
    return redirect("operator")
