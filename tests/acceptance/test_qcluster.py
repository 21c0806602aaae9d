"""A real django-q2 cluster: a wake-up passes the broker, a worker drains, and the message arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django_q.models import Failure, OrmQ, Success

from prx_email_django.models import ConnectionSlot, OutboxMessage
from prx_email_django.store import db as base
from tests.acceptance.workers import Worker, environment, eventually, message_id, outbox
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

#: A web process that queues messages and does not send them.
QUEUE = """
import json, sys
import django
django.setup()
import prx_email_django as prx
first, count = map(int, sys.argv[1:])
prx.enqueue_many(
    [{"to": f"p{n}@example.org", "subject": f"n {n}", "body_text": "text"} for n in range(first, first + count)],
    account="main",
)
"""


def site(*, broker: str = "orm", prx_email: Mapping[str, Any] | None = None, **q_cluster: Any) -> dict[str, str]:
    """The environment of one site; its cluster has a unique name on a shared broker."""
    names = {"name": f"prx_test_{uuid.uuid4().hex}", **q_cluster}
    return environment(prx_email=prx_email, q_cluster=names, Q_BROKER=broker)


def queue(env: Mapping[str, str], count: int, *, first: int = 0) -> None:
    command = [sys.executable, "-c", QUEUE, str(first), str(count)]
    subprocess.run(command, env=dict(env), check=True, timeout=PATIENCE, capture_output=True)


@contextmanager
def cluster(env: Mapping[str, str]) -> Iterator[Worker]:
    """A running ``qcluster``, which is stopped by its main process id only (a signal to the group hangs it)."""
    with Worker("qcluster", env=env) as worker:
        assert eventually(lambda: "running." in worker.output), worker.output
        yield worker


def ended(worker: Worker) -> bool:
    worker.terminate()
    try:
        worker.wait(20)
    except subprocess.TimeoutExpired:  # django-q2's own shutdown may hang; only the messages matter here
        return False
    return True


@pytest.mark.parametrize("broker", ["orm", pytest.param("redis", marks=pytest.mark.redis)])
def test_queued_mail_arrives_within_seconds(broker: str) -> None:
    env = site(broker=broker)
    with outbox() as (server, _), cluster(env) as worker:
        queue(env, 1)
        # This is the wake-up: the scheduler runs only every thirty seconds.
        assert server.wait_for(1), worker.output
        queue(env, 20, first=1)
        assert server.wait_for(21), worker.output
        assert eventually(lambda: OutboxMessage.objects.filter(status="sent").count() == 21)
        assert eventually(lambda: "Processed 'prx_email_django.tasks.drain_due'" in worker.output)
        assert eventually(lambda: not OrmQ.objects.exists())
        ended(worker)
        assert set(Counter(server.recipients).values()) == {1}
    assert not Success.objects.exists()
    assert not Failure.objects.exists()


def test_mail_outlives_a_worker_that_is_killed_while_sending() -> None:
    env = site(prx_email={"BASE_BACKOFF": 0.5}, retry=8, timeout=7)
    with outbox() as (server, _), cluster(env) as worker:
        stalled = server.on("final", stall=True, nth=1)
        queue(env, 1)
        assert stalled.reached.wait(PATIENCE), worker.output
        slot = ConnectionSlot.objects.get(token__isnull=False)
        os.kill(int(slot.holder.rpartition(":")[2]), signal.SIGKILL)
        # Expire the lease: a real lease that is short enough for a test could expire on a busy machine.
        OutboxMessage.objects.update(claim_expires_at=base.database_now() - timedelta(seconds=1))
        server.release(stalled)
        assert eventually(lambda: OutboxMessage.objects.filter(status="sent").exists()), worker.output
        assert "reincarnated worker" in worker.output
        assert len({message_id(received.data) for received in server.messages}) == 1
    message = OutboxMessage.objects.get()
    assert (message.attempts, message.retries) == (1, 0)


def test_two_clusters_send_each_message_once() -> None:
    env = site(workers=2)
    with outbox(max_connections=3) as (server, _), cluster(env) as first_cluster, cluster(env) as second_cluster:
        for first in range(0, 120, 30):
            queue(env, 30, first=first)
        assert server.wait_for(120), first_cluster.output + second_cluster.output
        assert eventually(lambda: OutboxMessage.objects.filter(status="sent").count() == 120)
        ended(first_cluster)
        ended(second_cluster)
        assert set(Counter(server.recipients).values()) == {1}
        assert len(server.recipients) == 120
        assert server.max_open_connections <= 3


def test_the_schedule_sends_what_no_wake_up_announced() -> None:
    """A message that becomes due without a wake-up is sent by the schedule, which runs every thirty seconds."""
    env = site()
    with outbox() as (server, _):
        queue({**env, "PRX_EMAIL": json.dumps({"WAKE": ""})}, 1)
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity", "0"], env=env, check=True, timeout=PATIENCE
        )
        with cluster(env) as worker:
            assert server.wait_for(1), worker.output
            assert eventually(lambda: "drain_outbox" in worker.output)
    assert not Success.objects.exists()
