"""The inbox of the example's mail server."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from example_project.catcher.inbox import Inbox

SHOWN = 25


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
