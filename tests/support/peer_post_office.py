"""Waiting mail of every kind in django-post_office, and what happens to it; runs in ``peer_project``."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.mail import EmailMultiAlternatives
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from post_office import mail
from post_office.models import STATUS, Email, EmailTemplate

from prx_email_django.contrib.importing.post_office import PostOfficeSource
from prx_email_django.models import OutboxMessage
from tests.support.peer_project import ImportsWhileItSends, as_it_would_be_sent, outbox_import

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SENDER = "Shop <shop@example.com>"
HOUR = timedelta(hours=1)


def _send(name: str, **fields: Any) -> Email:
    given = {"subject": f"about {name}", "message": f"text of {name}", **fields}
    if "template" in given:
        del given["subject"], given["message"]
    return mail.send(f"{name}@example.org", SENDER, **given)


def _status(email: Email, status: int | None, **fields: Any) -> Email:
    Email.objects.filter(pk=email.pk).update(status=status, **fields)
    return email


def _by_django() -> Email:
    message = EmailMultiAlternatives(
        "about django",
        "text",
        SENDER,
        ["django@example.org"],
        cc=["Çağla <cc@example.org>"],
        reply_to=["desk@example.org"],
    )
    message.attach_alternative("<p>html</p>", "text/html")
    message.attach("order.pdf", b"%PDF-1.4", "application/pdf")
    message.send()
    return Email.objects.latest("pk")


def waiting() -> dict[str, Email]:
    """One waiting message of every kind that can be imported."""
    now = timezone.now()
    Path(settings.MEDIA_ROOT, "logo.png").write_bytes(PNG)
    logo = f"{settings.MEDIA_ROOT}/logo.png"
    greeting = EmailTemplate.objects.create(
        name="greeting", subject="Hello {{ name }}", content="Dear {{ name }}", html_content="<p>Dear {{ name }}</p>"
    )
    EmailTemplate.objects.create(name="greeting", language="de", default_template=greeting, subject="Hallo {{ name }}")
    picture = "{% load post_office %}" + f"<img src=\"{{% inline_image '{logo}' %}}\"> {{{{ name }}}}"
    EmailTemplate.objects.create(name="picture", subject="See {{ name }}", content="See", html_content=picture)
    odd = {
        "Rechnung – März 2026.pdf": ContentFile(b"%PDF-1.4 Rechnung"),
        'a "quoted"; name.txt': ContentFile(b"quoted"),
        "請求書.txt": ContentFile("請求".encode()),
        "nested.eml": {"file": ContentFile(b"Subject: inner\r\n\r\ntext\r\n"), "mimetype": "message/rfc822"},
    }
    cid = {"Content-ID": "<logo>", "Content-Disposition": "inline", "Content-Transfer-Encoding": "base64"}
    inline = {"logo.png": {"file": ContentFile(base64.b64encode(PNG)), "mimetype": "image/png", "headers": cid}}
    context = {"name": "Zoë"}
    return {
        "plain": _send("plain"),
        "both": _send("both", html_message="<p>€</p>"),
        "html": _send("html", message="", html_message="<p>only</p>"),
        "copies": _send("copies", cc=["c1@example.org", "Cé <c2@example.org>"], bcc=["hidden@example.org"]),
        "headers": _send("headers", headers={"List-Unsubscribe": "<https://x.example/u?a=1>", "X-Shop": "é"}),
        "files": _send("files", attachments=odd),
        "inline": _send("inline", html_message='<img src="cid:logo">', attachments=inline),
        "template": _send("template", template="greeting", context=context),
        "german": _send("german", template=greeting, language="de", context=context),
        "later": _send("later", template="greeting", context=context, render_on_delivery=True),
        "picture": _send("picture", template="picture", context=context, render_on_delivery=True),
        "scheduled": _send("scheduled", scheduled_time=now + 2 * HOUR),
        "overdue": _send("overdue", scheduled_time=now - 240 * HOUR),
        "expiring": _send("expiring", expires_at=now + 24 * HOUR),
        "low": _send("low", priority="low"),
        "high": _send("high", priority="high"),
        "now": _status(_send("now", priority="low"), STATUS.queued, priority=3),
        "again": _status(_send("again"), STATUS.requeued, number_of_retries=1, scheduled_time=now + HOUR),
        "known": _status(_send("known"), STATUS.queued, message_id="<known.1@shop.example.com>"),
        "bulk": _send("bulk", backend="bulk"),
        "django": _by_django(),
    }


def refused() -> dict[str, Email]:
    """Messages that post_office could not send either, or that have no account."""
    broken = _send("broken")
    EmailTemplate.objects.create(name="broken", subject="{% nonsense %}")
    broken_template = EmailTemplate.objects.get(name="broken")
    lost = _send("lost", attachments={"lost.txt": ContentFile(b"lost")})
    lost.attachments.get().file.delete(save=False)
    lost.attachments.update(file="post_office_attachments/gone.txt")
    return {
        "broken": _status(broken, STATUS.queued, template=broken_template, context={}),
        "lost": lost,
        "nobody": _status(_send("nobody"), STATUS.queued, to=[]),
        "comma": _status(_send("comma"), STATUS.queued, to='"Doe, Ann" <ann@example.org>'),
        "newsletter": _send("newsletter", backend="newsletter"),
    }


def left() -> dict[str, Email]:
    """Messages that post_office would not send by itself."""
    past = timezone.now() - HOUR
    return {
        "expired": _status(_send("expired"), STATUS.queued, expires_at=past),
        "failed": _status(_send("failed"), STATUS.failed),
        "begun": _status(_send("begun"), None, priority=3),
    }


def _numbers(rows: dict[str, Email]) -> dict[str, int]:
    return {name: row.pk for name, row in rows.items()}


def _statuses() -> dict[int, int | None]:
    return dict(Email.objects.values_list("pk", "status"))


def moved() -> dict[str, Any]:
    """Import everything, twice, and let the old worker run."""
    rows, bad, rest = waiting(), refused(), left()
    fresh = Email.objects.in_bulk([row.pk for row in rows.values()])
    result: dict[str, Any] = {
        "waiting": _numbers(rows),
        "refused": _numbers(bad),
        "left": _numbers(rest),
        "expected": {name: as_it_would_be_sent(fresh[row.pk].email_message()) for name, row in rows.items()},
        "scheduled": rows["scheduled"].scheduled_time.isoformat(),
    }
    before = _statuses()
    result["dry"] = outbox_import("post_office", "--dry-run")
    assert (before, 0) == (_statuses(), OutboxMessage.objects.count()), "a dry run changes something"
    with patch.object(PostOfficeSource, "take_out", side_effect=SystemExit):
        try:
            outbox_import("post_office")
        except SystemExit:
            result["killed"] = OutboxMessage.objects.count()
    result["first"] = outbox_import("post_office")
    result["second"] = outbox_import("post_office")
    # A worker of another machine, which had read the row before the import, puts it into the queue once more.
    Email.objects.filter(pk=rows["plain"].pk).update(status=STATUS.requeued)
    result["third"] = outbox_import("post_office")
    result["failed"] = outbox_import("post_office", "--failed")
    call_command("send_queued_mail", log_level=0)
    result["statuses"] = {name: Email.objects.get(pk=row.pk).status for name, row in {**rows, **bad, **rest}.items()}
    result["logs"] = list(rows["both"].logs.values_list("message", flat=True))
    return result


def while_it_sends() -> list[str]:
    """The worker sends two messages; an import begins in the middle."""
    _send("one")
    _send("two")
    ImportsWhileItSends.package = "post_office"
    call_command("send_queued_mail", log_level=0)
    return [*ImportsWhileItSends.printed, *outbox_import("post_office")]


def there_and_back() -> dict[str, Any]:
    """Import, give back, import again; then history."""
    row = _send("undecided", scheduled_time=timezone.now() + HOUR)
    old = _status(_send("old"), STATUS.sent)
    Email.objects.filter(pk=old.pk).update(
        created=timezone.now() - timedelta(days=400), last_updated=timezone.now() - timedelta(days=400)
    )
    done = _status(_send("done", cc=["cc@example.org"]), STATUS.sent, message_id="<done.1@shop.example.com>")
    done.logs.create(status=STATUS.sent)
    perhaps = _send("perhaps")
    result: dict[str, Any] = {"there": outbox_import("post_office"), "perhaps": perhaps.pk}
    # Its only attempt has an unknown outcome.
    OutboxMessage.objects.filter(subject="about perhaps").update(attempts=1)
    result["dry"] = outbox_import("post_office", "--back", "--dry-run")
    result["back"] = outbox_import("post_office", "--back")
    result["status"] = Email.objects.get(pk=row.pk).status
    result["again"] = outbox_import("post_office")
    result["history"] = outbox_import("post_office", "--history")
    result["history again"] = outbox_import("post_office", "--history")
    return result


def in_front() -> dict[str, Any]:
    """post_office keeps its templates and hands every message to the outbox: by its worker, and at once."""
    EmailTemplate.objects.create(name="front", subject="Hello {{ name }}", content="Dear {{ name }}")

    def send(name: str) -> None:
        given = {"template": "front", "context": {"name": name}, "headers": {"X-Outbox-Priority": "7"}}
        mail.send(f"{name}@example.org", SENDER, **given)

    by_worker = [f"w{number}" for number in range(12)]
    for name in by_worker:
        send(name)
    result: dict[str, Any] = {"before the worker": OutboxMessage.objects.count()}
    call_command("send_queued_mail", log_level=0)
    result["by the worker"] = OutboxMessage.objects.filter(subject__startswith="Hello w", priority=7).count()
    settings.POST_OFFICE["DEFAULT_PRIORITY"] = "now"
    try:
        with transaction.atomic():
            send("undone")
            raise LookupError
    except LookupError:
        send("kept")
    result["at once"] = list(
        OutboxMessage.objects.exclude(subject__startswith="Hello w").values_list("subject", flat=True)
    )
    result["statuses"] = sorted(set(Email.objects.values_list("status", flat=True)))
    return result
