"""Callers whose threads are greenlets (gunicorn -k gevent, celery -P gevent) are refused before anything is claimed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from prx_email_django.models import ConnectionSlot, OutboxMessage
from tests.acceptance.workers import environment, outbox
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent sockets": "from gevent import monkey; monkey.patch_socket()",
    "gevent queues": "from gevent import monkey; monkey.patch_queue()",
    # The library is not installed here: the warning that it prints at import would be an error.
    "eventlet": """
import sys, types
patcher = types.ModuleType("eventlet.patcher")
patcher.is_monkey_patched = lambda module: module == "socket"
sys.modules["eventlet.patcher"] = patcher
""",
}

CALLS = """
import django
django.setup()
import prx_email_django as prx
from django.core.exceptions import ImproperlyConfigured
from prx_email_django.tasks import drain_outbox
mail = {"account": "main", "to": "ann@example.org", "subject": "s", "body_text": "t"}
row = prx.enqueue(**mail)
for call in (prx.drain, lambda: prx.send(**mail), lambda: prx.retry_outbox(row.pk)):
    try:
        call()
    except ImproperlyConfigured as error:
        print(error)
assert drain_outbox() is None
"""

#: The button of an account's page, and what the page says then.
BUTTON = """
import django
django.setup()
from django.contrib.auth.models import User
from django.test import Client
browser = Client(SERVER_NAME="localhost")
browser.force_login(User.objects.create_superuser("root"))
answer = browser.post("/admin/prx_email_django/account/PK/check/", follow=True)
print(answer.status_code, answer.content.decode())
"""


def run(script: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script]
    env = environment(prx_email={"WAKE": "", **settings})
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("patched", PATCHES)
def test_greenlets_queue_mail_and_are_told_where_to_send_it(patched: str) -> None:
    with outbox() as (server, _):
        done = run(f"{PATCHES[patched]}\n{CALLS}")
        assert done.returncode == 0, done.stderr
        library = patched.partition(" ")[0]
        assert done.stdout.count(f"and {library} has replaced them in this process. Queue here with enqueue()") == 3
        assert "nothing is sent: drain() needs real threads" in done.stderr
        assert server.connections == 0
    assert list(OutboxMessage.objects.values_list("status", "attempts")) == [("pending", 0)]
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_process_that_has_only_imported_gevent_sends() -> None:
    with outbox() as (server, _):
        done = run(f"import gevent.monkey\n{CALLS.partition('row =')[0]}\nassert prx.send(**mail).status == 'sent'")
        assert done.returncode == 0, done.stderr
        assert len(server.messages) == 1


def test_the_admins_check_of_an_account_says_where_it_can_be_made() -> None:
    with outbox() as (server, account):
        done = run(f"{PATCHES['gevent']}\n{BUTTON.replace('PK', str(account.pk))}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("200 ")
        assert "outbox_check main" in done.stdout
        assert server.connections == 0
