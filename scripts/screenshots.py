"""Fills a database, serves the admin from it, and takes the two screenshots of the README.

    .venv/bin/python scripts/screenshots.py [--rows 200000] [--all FOLDER]

It needs Chromium.  ``docs/images/dashboard.png`` and ``message.png`` are 1280 pixels wide, in light colours.
``--rows`` adds so many sent messages, to see the pages at full size; ``--all`` writes every page, for a desktop and a
phone, in light and dark colours, with the seconds of each page, to a folder for a person to look at.  With the variable
``THEME`` (``unfold``, ``jazzmin``, ``grappelli``; the theme is installed) the pages are those of that theme.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
#: Label -> reply of the server, error code, and number of messages at rest for it.
REASONS = {
    "newsletter": ("550 5.7.1 message refused by policy, see https://mail.example.net/why", "provider", 23),
    "orders": ("550 5.1.1 user unknown", "recipients_refused", 3),
}


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name in the base class)
        """Print nothing."""


def _fill(rows: int) -> int:
    """Write accounts, messages and counts; return the number of the message whose page is shown."""
    from django.utils import timezone

    from prx_email_django import enqueue, pause_outbox
    from prx_email_django.models import Account, HourlyCount, OutboxMessage, Worker

    now = timezone.now()
    fields = {"host": "smtp.example.com", "port": 465, "password": "x", "email": "shop@example.com", "user": "shop"}
    accounts = {name: Account.objects.create(name=name, **fields) for name in REASONS}
    counts = [
        HourlyCount(
            account=account,
            hour=now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hour),
            sent=40 + (hour * 37) % 90,
            failed=(hour * 7) % 9,
        )
        for account in accounts.values()
        for hour in range(24 * 14)
    ]
    HourlyCount.objects.bulk_create(counts)
    Worker.objects.create(
        name="web1:4711", kind="loop", started_at=now - timedelta(hours=8), last_seen_at=now, sent=812
    )
    shown = 0
    for name, (error, code, count) in REASONS.items():
        for number in range(count):
            message = enqueue(
                account=name,
                to=f"ann{number}@example.org",
                subject=f"Your order {number}",
                body_text="On its way.",
                body_html="<h1>Your order</h1><p>It is on its way.</p>",
            )
            _fail(message, error, code, now=now)
            shown = message.pk
    for number in range(12):
        enqueue(account="newsletter", to=f"bo{number}@example.org", subject="News of November", body_text="News.")
    pause_outbox("newsletter", reason="wrong price in the news", by="Keiko")
    _multiply(OutboxMessage, shown, rows)
    return shown


def _fail(message: Any, error: str, code: str, *, now: Any) -> None:
    from prx_email_django.models import DeliveryAttempt, OutboxMessage

    OutboxMessage.objects.filter(pk=message.pk).update(
        status="failed",
        next_attempt_at=None,
        retries=2,
        attempts=2,
        last_error=error,
        last_error_code=code,
        created_at=now - timedelta(hours=3),
    )
    texts = (("421 4.3.2 try again later", "network", 421, "4.3.2"), (error, code, 550, error.split()[1]))
    for number, (text, kind, smtp_code, enhanced) in enumerate(texts, start=1):
        started = now - timedelta(hours=3, minutes=-40 * number)
        DeliveryAttempt.objects.create(
            message=message,
            number=number,
            header_message_id=f"<outbox-{message.pk}-{number}@shop.example>",
            started_at=started,
            finished_at=started + timedelta(seconds=1.4),
            outcome="failed",
            error_code=kind,
            error=text,
            phase="rcpt",
            smtp_code=smtp_code,
            enhanced_code=enhanced,
            peer="192.0.2.25:465 TLSv1.3",
            worker="web1:4711",
        )


def _multiply(model: Any, pk: int, rows: int) -> None:
    """Copy one message as sent ones, in a few statements."""
    from django.db import connection

    fields = [field for field in model._meta.concrete_fields if not (field.primary_key or field.generated)]
    names = ", ".join(f'"{field.column}"' for field in fields)
    replaced = {"status": "'sent'", "sent_at": "created_at", "last_error": "''", "last_error_code": "''"}
    values = ", ".join(replaced.get(field.column, f'"{field.column}"') for field in fields)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) "  # noqa: S608
            f"INSERT INTO {model._meta.db_table} ({names}) SELECT {values} FROM {model._meta.db_table}, n "
            f"WHERE id = %s AND %s > 0",
            [rows, pk, rows],
        )
        cursor.execute("ANALYZE")


def _serve() -> WSGIServer:
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.wsgi import get_wsgi_application

    server = make_server("127.0.0.1", 0, StaticFilesHandler(get_wsgi_application()), handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _session() -> str:
    """Log Keiko in without a page, since each theme has a page of its own for that; return the cookie's value."""
    from django.contrib.auth import get_user_model
    from django.test import Client

    client = Client()
    client.force_login(get_user_model().objects.create_superuser("keiko", "keiko@example.com"))
    return client.cookies["sessionid"].value


def _shoot(url: str, pages: dict[str, str], folder: Path, *, session: str, everything: bool) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        shots = (
            [(size, colours) for size in SIZES for colours in ("light", "dark")]
            if everything
            else [("desktop", "light")]
        )
        for size, colours in shots:
            width, height = SIZES[size]
            context = browser.new_context(
                base_url=url, viewport={"width": width, "height": height}, color_scheme=colours
            )
            context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
            page = context.new_page()
            for name, path in pages.items():
                begun = time.monotonic()
                page.goto(path)
                seconds = time.monotonic() - begun
                target = folder / (f"{name}-{size}-{colours}.png" if everything else f"{name}.png")
                page.screenshot(path=str(target), full_page=everything)
                over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                sys.stdout.write(f"{target}: {seconds:.2f} s, {over} px too wide\n")
                if everything:
                    _accessible(page)
            context.close()
        browser.close()


def _accessible(page: Any) -> None:
    """Print what axe finds serious."""
    import axe_playwright_python

    page.evaluate(Path(axe_playwright_python.__path__[0], "axe.min.js").read_text(encoding="utf-8"))
    for found in page.evaluate("axe.run({resultTypes: ['violations'], iframes: false})")["violations"]:
        if found["impact"] in ("serious", "critical"):
            targets = [f"{node['target']} {str(node.get('any') or [{}])[:160]}" for node in found["nodes"][:4]]
            sys.stdout.write(f"  axe, {found['impact']}: {found['id']} {len(found['nodes'])} {targets}\n")


def main() -> None:
    """Do it all in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--all", type=Path, dest="folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {
            "DATABASE": "sqlite",
            "DATABASE_NAME": f"{place}/shots.sqlite3",
            "DJANGO_ALLOW_ASYNC_UNSAFE": "1",
            "DJANGO_SETTINGS_MODULE": "tests.themes.settings" if os.environ.get("THEME") else "tests.settings",
        }
        sys.path.insert(0, str(ROOT))
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        shown = _fill(options.rows)
        server = _serve()
        admin = "/admin/prx_email_django"
        pages = {"dashboard": f"{admin}/outbox/", "message": f"{admin}/outboxmessage/{shown}/change/"}
        if options.folder:
            pages |= {
                "index": "/admin/",
                "app_index": f"{admin}/",
                "messages": f"{admin}/outboxmessage/",
                "needs_person": f"{admin}/outboxmessage/?status=needs_person",
                "accounts": f"{admin}/account/",
                "account": f"{admin}/account/1/change/",
                "attempts": f"{admin}/deliveryattempt/",
                "pauses": f"{admin}/pauserecord/",
                "recipients": f"{admin}/recipient/",
                "everything": f"{admin}/outboxstate/",
                "new_account": f"{admin}/account/add/",
                "erase": f"{admin}/outboxmessage/erase/",
            }
        folder = options.folder or IMAGES
        folder.mkdir(parents=True, exist_ok=True)
        url = f"http://127.0.0.1:{server.server_port}"
        _shoot(url, pages, folder, session=_session(), everything=bool(options.folder))
        server.shutdown()


if __name__ == "__main__":
    main()
