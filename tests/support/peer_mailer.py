"""Waiting mail of every kind in django-mailer, and what happens to it; runs in ``peer_project``."""

from __future__ import annotations

from datetime import timedelta
from email.mime.image import MIMEImage
from typing import Any

import mailer
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection
from django.core.management import call_command
from django.utils import timezone
from mailer.models import DontSendEntry, Message, MessageLog

from prx_email_django.models import OutboxMessage
from tests.support.peer_post_office import PNG
from tests.support.peer_project import ImportsWhileItSends, as_it_would_be_sent, outbox_import

SENDER = "Shop <shop@example.com>"


def _queued(email: EmailMessage, **fields: Any) -> Message:
    get_connection("mailer.backend.DbBackend").send_messages([email])
    row = Message.objects.latest("pk")
    Message.objects.filter(pk=row.pk).update(**fields) if fields else None
    return row


def _send(name: str, **fields: Any) -> Message:
    mailer.send_mail(f"about {name}", f"text of {name}", SENDER, [f"{name}@example.org"], **fields)
    return Message.objects.latest("pk")


def _html(name: str) -> Message:
    to = [f"{name}@example.org"]
    mailer.send_html_mail(
        f"about {name}", "text", "<p>€</p>", SENDER, to, headers={"List-Unsubscribe": "<https://x.example/>"}
    )
    return Message.objects.latest("pk")


def _files() -> EmailMessage:
    email = EmailMultiAlternatives(
        "Ihre Rechnung – März",
        "text",
        SENDER,
        ["files@example.org"],
        cc=["Cé <c@example.org>"],
        bcc=["hidden@example.org"],
    )
    email.reply_to = ["desk@example.org"]
    email.attach_alternative('<img src="cid:logo">', "text/html")
    for name in ("Rechnung – März 2026.pdf", 'a "quoted"; name.txt', "請求書.txt"):
        email.attach(name, b"content of a file", "application/pdf" if name.endswith("pdf") else None)
    email.attach("nested.eml", "Subject: inner\n\ntext\n", "message/rfc822")
    image = MIMEImage(PNG)
    image.add_header("Content-ID", "<logo>")
    image.add_header("Content-Disposition", "inline", filename="logo.png")
    email.attach(image)
    return email


def waiting() -> dict[str, Message]:
    """One waiting message of every kind that can be imported."""
    known = EmailMessage(
        "about known", "text", SENDER, ["known@example.org"], headers={"Message-ID": "<k.1@shop.example>"}
    )
    only_html = EmailMessage("about html", "<p>only</p>", SENDER, ["html@example.org"])
    only_html.content_subtype = "html"
    return {
        "plain": _send("plain"),
        "both": _html("both"),
        "html": _queued(only_html),
        "files": _queued(_files()),
        "known": _queued(known),
        "high": _send("high", priority=1),
        "low": _send("low", priority=3),
        "deferred": _queued(EmailMessage("d", "text", SENDER, ["deferred@example.org"]), priority=4, retry_count=1),
        "partly": _queued(EmailMessage("p", "text", SENDER, ["partly@example.org"], cc=["Never@example.org"])),
    }


def moved() -> dict[str, Any]:
    """Import everything, twice, and let the old worker run."""
    rows = waiting()
    # The list was longer after the message had been queued.
    DontSendEntry.objects.create(to_address="never@example.org", when_added=timezone.now())
    bad = {
        "unreadable": Message.objects.create(message_data="no pickle"),
        "unwanted": _queued(EmailMessage("u", "text", SENDER, ["never@example.org"])),
        "nobody": _queued(EmailMessage("n", "text", SENDER, [], headers={"X": "y"})),
    }
    rest = {"given up": _queued(EmailMessage("g", "t", SENDER, ["given.up@example.org"]), priority=4, retry_count=3)}
    expected = {}
    for name, row in rows.items():
        email = Message.objects.get(pk=row.pk).email
        email.cc = [address for address in email.cc if address != "Never@example.org"]
        expected[name] = as_it_would_be_sent(email)
    result: dict[str, Any] = {
        "waiting": {name: row.pk for name, row in rows.items()},
        "refused": {name: row.pk for name, row in bad.items()},
        "expected": expected,
    }
    before = list(Message.objects.values_list().order_by("pk"))
    result["dry"] = outbox_import("mailer", "--dry-run")
    assert before == list(Message.objects.values_list().order_by("pk"))
    assert not OutboxMessage.objects.exists()
    result["first"] = outbox_import("mailer")
    result["second"] = outbox_import("mailer")
    result["there"] = sorted(Message.objects.values_list("pk", flat=True))
    result["rest"] = rest["given up"].pk
    result["failed"] = outbox_import("mailer", "--failed")
    result["logs"] = list(MessageLog.objects.values_list("result", flat=True))
    return result


def while_it_sends() -> dict[str, Any]:
    """The worker sends three messages; an import runs in the middle of the first."""
    for name in ("one", "two", "three"):
        _send(name)
    ImportsWhileItSends.package = "mailer"
    call_command("send_mail")
    return {"meanwhile": ImportsWhileItSends.printed, "after": outbox_import("mailer")}


def there_and_back() -> dict[str, Any]:
    """Import, give back, import again; then history."""
    _send("undecided", priority=1)
    result: dict[str, Any] = {"there": outbox_import("mailer"), "back": outbox_import("mailer", "--back")}
    result["row"] = list(Message.objects.values_list("priority", flat=True))
    result["again"] = outbox_import("mailer")
    ancient = timezone.now() - timedelta(days=400)
    sent = Message(priority=2, when_added=ancient)
    for name, day in (("done", timezone.now()), ("old", ancient)):
        sent.email = EmailMessage(
            f"about {name}", "text", SENDER, [f"{name}@example.org"], headers={"Message-ID": f"<{name}@x>"}
        )
        MessageLog.objects.log(sent, "1")
        MessageLog.objects.filter(message_id=f"<{name}@x>").update(when_attempted=day)
    MessageLog.objects.create(message_data=None, message_id="<bare@x>", when_added=ancient, priority=2, result="1")
    result["history"] = outbox_import("mailer", "--history")
    return result
