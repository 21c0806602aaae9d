"""A wake-up never holds its caller, whatever the broker does; ``flush_outbox --loop`` needs no broker."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django_q.conf import Conf
from django_q.models import OrmQ

import prx_email_django as prx
from prx_email_django.api import wake as wake_module
from prx_email_django.management._loop import WATCH, WATCH_CLOSELY, Stop, wait_for_wake_up
from prx_email_django.management.commands import flush_outbox
from prx_email_django.models import OutboxMessage, OutboxState
from prx_email_django.store.db import kept_connection
from tests.acceptance.workers import Worker, environment, eventually, outbox
from tests.support.factories import account, mail
from tests.support.patience import PATIENCE
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)

HERE = "tests.acceptance.test_wake_ups"
CALLS: list[str] = []
HANGS = threading.Event()


def hang() -> None:
    """``WAKE`` whose broker says nothing until the test ends."""
    CALLS.append(threading.current_thread().name)
    OutboxMessage.objects.count()
    HANGS.wait(PATIENCE)


@pytest.fixture(autouse=True)
def _fresh(settings: Any) -> Iterator[None]:
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": f"{HERE}.hang"}
    CALLS.clear()
    HANGS.clear()
    yield
    HANGS.set()
    assert wake_module._running.acquire(timeout=PATIENCE), "a wake-up still runs"
    wake_module._running.release()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prx-email-wake"]


def seconds_of_enqueue(**fields: Any) -> float:
    begun = time.monotonic()
    prx.enqueue(**mail(prx.models.Account.objects.get(), **fields))
    return time.monotonic() - begun


def ask_again() -> None:
    """As if a drain had begun: the next message asks for another one."""
    OutboxState.objects.update(wake_requested_at=None)


def test_a_silent_broker_holds_nobody_and_threads_do_not_pile_up(caplog: pytest.LogCaptureFixture) -> None:
    account()
    for _ in range(5):
        assert seconds_of_enqueue() < 1
        ask_again()
    assert CALLS == ["prx-email-wake"], "one hangs, and no other is begun"
    assert len(threads()) <= 2, "the one that hangs, and the one that will say so"
    assert eventually(lambda: "has not returned for 2 s" in caplog.text)
    HANGS.set()
    assert eventually(lambda: not threads())
    seconds_of_enqueue()
    assert len(CALLS) == 2
    assert caplog.text.count("has not returned") == 1


@pytest.mark.django_db(transaction=False)
@pytest.mark.parametrize("wake", [f"{HERE}.hang", None])
def test_in_a_test_case_a_wake_up_stays_in_its_transaction(
    settings: Any, django_capture_on_commit_callbacks: Any, wake: str | None
) -> None:
    """In a thread it would wait for the test's own lock (SQLite), or leave a task behind (the others)."""
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": wake}
    account()
    HANGS.set()
    with django_capture_on_commit_callbacks(execute=True):
        seconds_of_enqueue()
    assert [*CALLS, OrmQ.objects.count()] == ([threading.main_thread().name, 0] if wake else [1])


def slow() -> None:
    """``WAKE`` whose broker takes a while to answer."""
    time.sleep(1)
    os.write(1, b"woken")


def test_a_script_that_ends_at_once_does_not_lose_its_wake_up() -> None:
    """Tried: the first connection to Redis took longer than the caller waited, and the process ended before it."""
    account()
    script = """
import django
django.setup()
import prx_email_django as prx
prx.enqueue(account="main", to="ann@example.org", subject="s", body_text="t")
"""
    env = environment(prx_email={"TRANSPORT": "memory", "WAKE": f"{HERE}.slow"})
    ended = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, timeout=PATIENCE, stdout=subprocess.PIPE
    )
    assert ended.stdout == b"woken"


def test_a_process_ends_although_its_wake_up_hangs() -> None:
    account()
    script = f"""
import django
django.setup()
import prx_email_django as prx
prx.enqueue(account="main", to="ann@example.org", subject="s", body_text="t")
import {HERE} as here
assert here.CALLS
"""
    env = environment(prx_email={"TRANSPORT": "memory", "WAKE": f"{HERE}.hang"})
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2


def test_a_forked_child_wakes_although_its_parent_waited_for_a_wake_up() -> None:
    account()
    script = f"""
import os
import django
django.setup()
import prx_email_django as prx
from django.db import connections
from prx_email_django.models import OutboxState
import {HERE} as here
def enqueue():
    prx.enqueue(account="main", to="ann@example.org", subject="s", body_text="t")
enqueue()
OutboxState.objects.update(wake_requested_at=None)
connections.close_all()
if os.fork() == 0:
    here.CALLS.clear()
    enqueue()
    os._exit(0 if here.CALLS else 1)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    env = environment(prx_email={"TRANSPORT": "memory", "WAKE": f"{HERE}.hang"})
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=PATIENCE)


@contextmanager
def redis_at(port: int, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    """django-q2's Redis broker on this port."""
    settings.PRX_EMAIL = {"TRANSPORT": "memory"}
    with monkeypatch.context() as patch:
        patch.setattr(Conf, "ORM", None)
        patch.setattr(Conf, "REDIS", {"host": "127.0.0.1", "port": port})
        yield


def test_a_redis_that_accepts_and_stays_silent_holds_nobody(
    monkeypatch: pytest.MonkeyPatch, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    account()
    with socket.create_server(("127.0.0.1", 0)) as silent, redis_at(silent.getsockname()[1], monkeypatch, settings):
        assert seconds_of_enqueue() < 2
        ask_again()
        assert seconds_of_enqueue() < 1
        silent.close()
        assert eventually(lambda: not threads())
    assert "the wake-up" in caplog.text


def test_a_redis_that_is_away_holds_nobody(
    monkeypatch: pytest.MonkeyPatch, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    account()
    with socket.socket() as bound:  # and not listening: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        with redis_at(bound.getsockname()[1], monkeypatch, settings):
            assert seconds_of_enqueue() < 2
            assert eventually(lambda: not threads())
    assert "the wake-up failed" in caplog.text


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.redis
def test_a_redis_that_is_stopped_holds_nobody(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Any) -> None:
    account()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(shutil.which("redis-server")), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with redis_at(port, monkeypatch, settings):
                assert eventually(lambda: answers(port))
                os.kill(server.pid, signal.SIGSTOP)
                assert seconds_of_enqueue() < 2
                ask_again()
                assert seconds_of_enqueue() < 1
                os.kill(server.pid, signal.SIGCONT)
                assert eventually(lambda: not threads())
        finally:
            server.kill()


def test_an_open_pause_of_everything_holds_nobody(settings: Any) -> None:
    """Tried: the UPDATE of the wake row waited for the transaction that was pausing everything."""
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": ""}
    account()
    OutboxState.objects.get_or_create(pk=1)
    # In SQLite, which has one writer, the message itself would wait for the transaction.
    with transaction.atomic() if connection.vendor != "sqlite" else nullcontext():
        prx.pause_outbox(reason="maintenance")
        assert CallInThread(seconds_of_enqueue).outcome() < 2
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("wake", ["", f"{HERE}.hang"])
def test_the_wake_row_is_written_whatever_wakes(settings: Any, wake: str) -> None:
    settings.PRX_EMAIL = {"TRANSPORT": "memory", "WAKE": wake}
    account()
    seconds_of_enqueue()
    begun = time.monotonic()
    wait_for_wake_up(Stop(), 60)
    assert time.monotonic() - begun < 30
    prx.drain()
    begun = time.monotonic()
    wait_for_wake_up(Stop(), 0.2)
    assert time.monotonic() - begun >= 0.2, "the drain has cleared it"


def test_a_loop_that_has_sent_something_watches_closely_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def waited(stop: Stop, seconds: float, *, every: float, tick: Any) -> None:
        looks.append(every)
        monkeypatch.setattr(flush_outbox, "monotonic", lambda: time.monotonic() + 6 * (len(looks) - 1))
        if len(looks) == 3:
            stop.request()

    monkeypatch.setattr(flush_outbox, "wait_for_wake_up", waited)
    prx.enqueue(**mail(account()))
    call_command("flush_outbox", "--loop")
    assert looks == [WATCH_CLOSELY, WATCH_CLOSELY, WATCH]


def test_a_loop_keeps_its_connection_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried: with ``CONN_MAX_AGE`` 0, Django's default, each drain connected anew, 15 ms and cold caches each time."""
    looks: list[float] = []
    connected: list[Any] = []

    def waited(stop: Stop, seconds: float, *, every: float, tick: Any) -> None:
        looks.append(every)
        if len(looks) == 3:
            stop.request()

    def note(connection: Any, **_: Any) -> None:
        connected.append(connection)

    monkeypatch.setattr(flush_outbox, "wait_for_wake_up", waited)
    account()
    connection.close()
    connection_created.connect(note)
    call_command("flush_outbox", "--loop")
    connection_created.disconnect(note)
    assert (len(looks), len(connected)) == (3, 1)
    assert connection.settings_dict["CONN_MAX_AGE"] == 0, "requests of the same process close theirs as before"


def test_a_loop_leaves_the_life_of_connections_to_a_pool() -> None:
    """With psycopg's pool, Django refuses another ``CONN_MAX_AGE`` than 0: no loop could start."""
    options = {**connection.settings_dict["OPTIONS"], "pool": True}
    with patch.dict(connection.settings_dict, OPTIONS=options), kept_connection():
        assert connection.settings_dict["CONN_MAX_AGE"] == 0


def test_a_loop_starts_a_message_at_once_without_a_broker() -> None:
    waited = []
    with outbox() as (server, owner), Worker("flush_outbox", "--loop", env=environment(prx_email={"WAKE": ""})) as loop:
        for number in range(12):
            begun = time.monotonic()
            prx.enqueue(account=owner, to="ann@example.org", subject=str(number), body_text="t")
            assert server.wait_for(number + 1), loop.output
            waited.append(time.monotonic() - begun)
            assert eventually(lambda: not OutboxMessage.objects.exclude(status="sent").exists())
        loop.terminate()
        assert loop.wait() == 0
    # A look once a second would take half a second in the mean; a busy machine slows some of them.
    assert sorted(waited)[3] < 0.45, waited
