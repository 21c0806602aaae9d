"""psycopg's pool as the host's connection (``OPTIONS["pool"]``): it keeps sessions that the database has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections

import prx_email_django as prx
from tests.support.factories import account_on, backlog, mail
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)
#: Sessions that the pool keeps.
KEPT = 2


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The pool of all threads that begin from now on; None: the database has none."""
    if connection.vendor != "postgresql":
        yield None
        return
    given = connection.settings_dict
    options = {**given["OPTIONS"], "pool": {"min_size": KEPT, "timeout": 30}}
    monkeypatch.setitem(connections.settings, "default", {**given, "OPTIONS": options})
    pooled: Any = CallInThread(lambda: connections["default"]).outcome()
    pooled.pool.open(wait=True)
    yield pooled.pool
    pooled.close_pool()


def in_each_session(pool: Any, statement: str) -> None:
    """Execute a statement in each session that the pool keeps."""
    sessions = [pool.getconn() for _ in range(KEPT)]
    with connection.cursor() as cursor:
        for session in sessions:
            if statement:
                session.execute(statement)
                session.commit()
            else:
                cursor.execute("SELECT pg_terminate_backend(%s, 30000)", [session.info.backend_pid])
    for session in sessions:
        pool.putconn(session)


@pytest.mark.parametrize("verb", ["drain", "send"])
def test_a_process_whose_sessions_have_all_ended_while_it_rested_goes_on(
    verb: str, pool: Any, server: SmtpServer
) -> None:
    if pool is None:
        return  # no other database has such a pool
    owner = account_on(server)
    backlog(owner, 1)
    in_each_session(pool, "")
    if verb == "drain":
        CallInThread(prx.drain).outcome()
    else:
        CallInThread(prx.send, **mail(owner) | {"account": owner.name}).outcome()
    assert len(server.messages) == 1


def test_a_loop_leaves_the_sessions_that_lead_to_a_server_that_has_become_read_only(
    pool: Any, server: SmtpServer
) -> None:
    """A failover: each new session leads to the new server."""
    if pool is None:
        return
    backlog(account_on(server), 1)
    in_each_session(pool, "SET default_transaction_read_only = on")
    arguments = {"loop": True, "limit": 1, "time_budget": 45, "json": True, "no_progress": True}
    CallInThread(call_command, command_name="flush_outbox", **arguments).outcome()
    assert len(server.messages) == 1
