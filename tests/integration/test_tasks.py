"""Tasks for django-q2: they never raise and store no result, and there is one schedule."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import OperationalError
from django.db.models.signals import post_migrate
from django.test import override_settings
from django_q.conf import Conf
from django_q.models import Failure, OrmQ, Schedule, Success
from django_q.scheduler import scheduler
from django_q.signing import SignedPackage
from django_q.tasks import _sync

import prx_email_django as prx
from prx_email_django import api, tasks
from prx_email_django.apps import register_schedule
from prx_email_django.models import Account, OutboxMessage, OutboxState
from prx_email_django.results import DrainReport
from prx_email_django.transports.base import ConnectionSettings
from tests.integration.face_rows import message, new_account
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = "ann@example.org"
TASKS = (tasks.drain_outbox, tasks.drain_due)


@pytest.fixture
def account(server: SmtpServer) -> Account:
    return new_account(email="app@example.org", port=server.port)


def queue(account: Account, **fields: Any) -> OutboxMessage:
    return prx.enqueue(account=account, to="ann@example.org", subject="Secret", body_text="private", **fields)


def payload() -> dict[str, Any]:
    """Return the only task in the broker's table."""
    task: dict[str, Any] = SignedPackage.loads(OrmQ.objects.get().payload)
    return task


@pytest.mark.parametrize("task", TASKS)
def test_a_task_returns_how_many_it_sent(server: SmtpServer, account: Account, task: Any) -> None:
    queue(account)
    assert task() == 1
    assert task() == 0
    assert len(server.messages) == 1


def test_only_the_scheduled_drain_waits_for_what_becomes_due(server: SmtpServer, account: Account) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    queue(account, send_at=soon)
    assert tasks.drain_due() == 0
    assert datetime.now(UTC) < soon
    OutboxMessage.objects.update(next_attempt_at=datetime.now(UTC) + timedelta(seconds=1.5))
    assert tasks.drain_outbox() == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_copied_database_is_logged_and_not_tried_for_ever(
    server: SmtpServer, account: Account, caplog: pytest.LogCaptureFixture, task: Any
) -> None:
    queue(account)
    OutboxState.objects.update_or_create(pk=1, defaults={"instance": "production"})
    with override_settings(PRX_EMAIL={"INSTANCE": "staging"}):
        assert task() is None
    assert "outbox_adopt" in caplog.text
    assert server.connections == 0


@pytest.mark.parametrize("error", [RuntimeError, OperationalError, ValueError])
@pytest.mark.parametrize("task", TASKS)
def test_no_error_reaches_the_task_table_or_the_log_with_an_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, task: Any, error: type[Exception]
) -> None:
    def broken(**options: Any) -> DrainReport:
        raise error(f"DETAIL: Key (address)=({ADDRESS})")

    monkeypatch.setattr(api, "drain", broken)
    assert task() is None
    assert [record.levelno for record in caplog.records if record.name == "prx_email_django"] == [logging.ERROR]
    assert ADDRESS not in caplog.text


def test_a_timeout_of_the_cluster_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**options: Any) -> DrainReport:
        raise SystemExit

    monkeypatch.setattr(api, "drain", stopped)
    with pytest.raises(SystemExit):
        tasks.drain_outbox()


def test_mail_that_is_queued_wakes_one_drain_that_carries_no_content(account: Account) -> None:
    queue(account)
    queue(account)
    task = payload()
    assert (task["func"], task["args"], task["kwargs"]) == (tasks.WOKEN, (), {})
    assert (task["ack_failure"], task["save"], task["cached"]) == (True, False, False)
    assert isinstance(task["timeout"], int)
    assert "private" not in str(task)
    assert "ann" not in str(task)


def test_the_clusters_alarm_never_cuts_a_body() -> None:
    login = ConnectionSettings(host="h", port=1, security="tls", auth_method="none")
    assert login.final_timeout == tasks.FINAL_REPLY
    longest = 26_214_400 * 4 / 3 / 32_768 + login.final_timeout
    assert tasks.task_timeout() > 40 + longest
    with override_settings(PRX_EMAIL={"DRAIN_TIME_BUDGET": 400}):
        assert tasks.task_timeout() > 400 + longest


def test_the_schedule_drains_and_leaves_nothing_behind(server: SmtpServer, account: Account) -> None:
    """Run the schedule like a cluster: the scheduler creates a task, a worker runs it, the monitor saves its result."""
    register_schedule(using="default")
    queue(account)
    OrmQ.objects.all().delete()
    scheduler()
    task = payload()
    assert task["func"] == tasks.SCHEDULED
    assert (task["ack_failure"], task["save"], task["cached"]) == (True, False, False)
    assert task["timeout"] == tasks.task_timeout()
    _sync(OrmQ.objects.get().payload)
    assert len(server.messages) == 1
    assert not Success.objects.exists()
    assert not Failure.objects.exists()


def test_migrations_keep_one_schedule_and_what_the_admin_set() -> None:
    Schedule.objects.all().delete()
    call_command("migrate", verbosity=0)
    made = Schedule.objects.get(name=tasks.SCHEDULE_NAME)
    assert (made.func, made.schedule_type, made.minutes, made.repeats) == (tasks.SCHEDULED, "I", 1, -1)
    later = datetime(2999, 1, 1, tzinfo=UTC)
    Schedule.objects.update(minutes=5, repeats=7, next_run=later, cluster="mail", func="gone.function", kwargs="x=1")
    Schedule.objects.create(name=tasks.SCHEDULE_NAME, func="a.copy")
    Schedule.objects.create(name="the host's own", func="a.copy")
    call_command("migrate", verbosity=0)
    kept = Schedule.objects.get(name=tasks.SCHEDULE_NAME)
    assert (kept.pk, kept.minutes, kept.repeats, kept.next_run, kept.cluster) == (made.pk, 5, 7, later, "mail")
    assert (kept.func, kept.kwargs) == (tasks.SCHEDULED, made.kwargs)
    assert ast.literal_eval(kept.kwargs) == {"q_options": tasks.q_options()}
    assert Schedule.objects.filter(name="the host's own").exists()


def test_a_host_that_wants_no_schedule_gets_none() -> None:
    Schedule.objects.all().delete()
    with override_settings(PRX_EMAIL={"AUTO_SCHEDULE": False}):
        call_command("migrate", verbosity=0)
    assert not Schedule.objects.exists()


def test_no_schedule_is_put_where_its_table_is_not() -> None:
    Schedule.objects.all().delete()
    register_schedule(using="another")

    class NotMigrated:
        def get_model(self, *names: str) -> None:
            raise LookupError

    register_schedule(using="default", apps=NotMigrated())
    assert not Schedule.objects.exists()


def test_an_idle_schedule_purges_at_most_once_an_hour(server: SmtpServer, account: Account) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)

    def old() -> None:
        row = message(account, status="sent", sent_at=long_ago, next_attempt_at=None)
        OutboxMessage.objects.filter(pk=row.pk).update(created_at=long_ago)

    old()
    tasks.drain_due()
    assert OutboxMessage.objects.exists()
    tasks.drain_outbox()
    assert not OutboxMessage.objects.exists()
    old()
    tasks.drain_outbox()
    assert OutboxMessage.objects.exists()


def test_a_drain_that_ran_out_of_time_does_not_purge_too(monkeypatch: pytest.MonkeyPatch) -> None:
    prx.drain()
    monkeypatch.setattr(api, "drain", lambda **options: DrainReport(claimed=9, sent=9, seconds=40.1))
    assert tasks.drain_outbox() == 9
    assert OutboxState.objects.get().last_purge_at is None


def test_a_cluster_in_sync_mode_sends_in_place(
    monkeypatch: pytest.MonkeyPatch, server: SmtpServer, account: Account
) -> None:
    monkeypatch.setattr(Conf, "SYNC", True)
    queue(account)
    assert len(server.messages) == 1


def test_the_scheduled_functions_take_no_arguments() -> None:
    assert all(not inspect.signature(task).parameters for task in TASKS)


WITHOUT_DJANGO_Q = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "django_q":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib, pkgutil
import django
django.setup()
from django.core.management import call_command
import prx_email_django as prx
optional = {"prx_email_django.contrib", "prx_email_django.testing"}
for module in pkgutil.walk_packages(prx.__path__, "prx_email_django."):
    if not module.name.startswith(tuple(optional)):
        importlib.import_module(module.name)
call_command("check", fail_level="WARNING")
call_command("migrate", verbosity=0)
from prx_email_django import tasks
from prx_email_django.models import Account
account = Account.objects.create(name="main", email="a@example.org", host="127.0.0.1", port=int(sys.argv[1]),
                                 security="none", auth_method="none")
prx.enqueue(account=account, to="ann@example.org", subject="s", body_text="t")
assert prx.drain().sent == 1
assert tasks.drain_outbox() == 0
call_command("outbox_status", check=True)
call_command("flush_outbox")
assert not [name for name in sys.modules if name.startswith("django_q")]
"""


def test_everything_works_where_django_q_is_not_installed(server: SmtpServer, tmp_path: Any) -> None:
    environment = {
        **os.environ,
        "DATABASE": "sqlite",
        "DATABASE_NAME": str(tmp_path / "outbox.sqlite3"),
        "WITHOUT_DJANGO_Q": "1",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    command = [sys.executable, "-W", "error", "-c", WITHOUT_DJANGO_Q, str(server.port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert len(server.messages) == 1


def test_the_app_listens_to_migrations_once() -> None:
    # Tests that override INSTALLED_APPS leave signal receivers of app configs that no longer exist.
    ours = ("prx_email_django.schedule", id(apps.get_app_config("prx_email_django")))
    assert [key for key, *_ in post_migrate.receivers].count(ours) == 1
