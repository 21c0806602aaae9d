"""Run by ``wheel.py`` where only the wheel is installed: migrate, an account, a message that waits, the checks."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="the key of a smoke test",  # noqa: S106
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

import prx_email_django  # noqa: E402
from prx_email_django.models import Account, OutboxMessage  # noqa: E402

package = Path(prx_email_django.__file__).parent
if Path(sys.prefix) not in package.parents:
    sys.exit(f"not the installed wheel: {package}")
if not (package / "py.typed").exists():
    sys.exit("py.typed is missing: the types of the package reach nobody")

call_command("migrate", verbosity=0)
call_command("check", fail_level="WARNING")
Account.objects.create(name="main", email="a@example.org", host="127.0.0.1", port=465, user="a", password="b")  # noqa: S106
queued = prx_email_django.enqueue(account="main", to="c@example.org", subject="Hello", body_text="From the wheel")
if OutboxMessage.objects.get(pk=queued.pk).status != "pending":
    sys.exit("the message does not wait in the outbox")
