"""Smoke test for ``wheel.py``, run where only the wheel is installed: migrate, check, queue a message."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="a key for tests only",  # noqa: S106  (protects nothing)
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_q", "prx_email_django"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "smoke.sqlite3",
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    Q_CLUSTER={"orm": "default", "timeout": 90, "retry": 1200},
    USE_TZ=True,
)
django.setup()

# Models can be imported only after django.setup().
import prx_email_django  # noqa: E402
from prx_email_django.models import Account, OutboxMessage  # noqa: E402

package = Path(prx_email_django.__file__).parent
if Path(sys.prefix) not in package.parents:
    sys.exit(f"not the installed wheel: {package}")
if not (package / "py.typed").exists():
    sys.exit("py.typed is missing: type checkers ignore the types of the package")

call_command("migrate", verbosity=0)
call_command("check", fail_level="WARNING")
Account.objects.create(name="main", email="a@example.org", host="127.0.0.1", port=465, user="a", password="b")  # noqa: S106  (no such account)
queued = prx_email_django.enqueue(account="main", to="c@example.org", subject="Hello", body_text="From the wheel")
if OutboxMessage.objects.get(pk=queued.pk).status != "pending":
    sys.exit("the message is not pending in the outbox")
