"""System checks: wrong settings are reported before messages are lost or late."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.test import override_settings

import prx_email_django
from prx_email_django.checks import database
from prx_email_django.checks.project import TAG

PACKAGE = Path(prx_email_django.__file__).parent
ID = re.compile(r"prx_email_django\.[EW]\d{3}")
CLUSTER = {"name": "host", "timeout": 90, "retry": 1200, "orm": "default", "ack_failures": True}

#: Id of a check → settings that make it report.  Other tests cover the rules of conf and of mailers.
FIRING: dict[str, dict[str, Any]] = {
    "E006": {"USE_TZ": False},
    "E007": {"PRX_EMAIL": {}},
    "E008": {"PRX_EMAIL": {"TRANSPORT": "console"}},
    "W006": {"PRX_EMAIL": {"MESSAGE_ID_DOMAIN": "mail.example.org"}},
    "W010": {"Q_CLUSTER": {**CLUSTER, "retry": 30, "timeout": 20}},
    "W011": {"Q_CLUSTER": {**CLUSTER, "timeout": 1200}},
    "W012": {"Q_CLUSTER": {**CLUSTER, "ack_failures": False, "max_attempts": 0}},
    "W013": {"Q_CLUSTER": {**CLUSTER, "orm": "queue"}},
    "W014": {"Q_CLUSTER": {**CLUSTER, "sync": True}},
    "W015": {"Q_CLUSTER": {**CLUSTER, "cluster_name": "other"}},
    "W016": {"Q_CLUSTER": {**CLUSTER, "scheduler": False}},
}
#: Ids that test_declared_accounts covers.
DECLARED = {"E009", "E042", "W007", "W042"}
#: Ids that test_rotation and test_identity cover.
ROTATION = {"W043", "W044", "W045"}
DEPLOY_ONLY = {"E007", "E008", "W006", "W012", "W014"}
WELL: dict[str, Any] = {
    "PRX_EMAIL": {"INSTANCE": "production", "MESSAGE_ID_DOMAIN": "mail.example.org"},
    "Q_CLUSTER": CLUSTER,
}


def found(*, deploy: bool, **overrides: Any) -> list[checks.CheckMessage]:
    with override_settings(**{**WELL, **overrides}):
        messages = checks.run_checks(tags=[TAG], include_deployment_checks=deploy)
    return [message for message in messages if str(message.id).startswith("prx_email_django.")]


def numbers(messages: list[checks.CheckMessage]) -> set[str]:
    return {str(message.id).rpartition(".")[2] for message in messages}


def ids_in_source() -> Counter[str]:
    """Return every id in the source of the checks, with the number of its uses."""
    sources = [path for path in (PACKAGE / "checks").glob("*.py") if path.name != "__init__.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    direct = [number.rpartition(".")[2] for number in ID.findall(text)]
    by_rule = re.findall(r'^@_rule\("([EW]\d{3})"', text, re.MULTILINE)
    return Counter([*direct, *by_rule])


def test_a_well_kept_project_is_not_bothered() -> None:
    assert found(deploy=True) == []


@pytest.mark.parametrize("number", sorted(FIRING))
def test_a_misconfiguration_is_named_with_a_way_out(number: str) -> None:
    fired = [message for message in found(deploy=True, **FIRING[number]) if message.id == f"prx_email_django.{number}"]
    assert len(fired) == 1
    assert fired[0].hint
    assert fired[0].level == (checks.ERROR if number.startswith("E") else checks.WARNING)


@pytest.mark.parametrize("number", sorted(DEPLOY_ONLY))
def test_a_developer_is_not_asked_for_what_only_production_needs(number: str) -> None:
    assert number not in numbers(found(deploy=False, **FIRING[number]))


def test_no_rule_is_left_without_a_test_and_no_id_means_two_things() -> None:
    given = ids_in_source()
    assert set(given) == {*FIRING, "W017", "W020", "W021", "W022", "W030", "W040", "W041", *DECLARED, *ROTATION}
    assert max(given.values()) == 1


def test_the_problems_of_the_settings_reach_the_command_line() -> None:
    fired = found(deploy=False, PRX_EMAIL={"RETENTON": {}})
    assert numbers(fired) == {"E002"}
    assert all(message.hint for message in fired)


@pytest.mark.parametrize(
    "cluster",
    [
        {},
        {"orm": "default"},
        {**CLUSTER, "timeout": None},
        {"redis": "redis://127.0.0.1"},
        {**CLUSTER, "retry": 40, "timeout": 39},
    ],
)
def test_django_qs_own_defaults_pass(cluster: dict[str, Any]) -> None:
    assert found(deploy=False, Q_CLUSTER=cluster) == []


@pytest.mark.parametrize("cluster", [{}, {"name": "shop", "workers": 2}, {"redis": "redis://127.0.0.1"}])
def test_a_default_broker_that_cannot_work_is_named(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this check the first message of a new user fails with a traceback about a missing module."""
    monkeypatch.setitem(sys.modules, "redis", None)
    assert numbers(found(deploy=False, Q_CLUSTER=cluster)) == {"W017"}


@pytest.mark.parametrize("cluster", [{"orm": "default"}, {"sync": True}, {"broker_class": "shop.Broker"}])
def test_who_names_a_broker_needs_no_redis(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    assert found(deploy=False, Q_CLUSTER=cluster) == []


def test_a_project_that_runs_no_drain_in_django_q_is_left_alone() -> None:
    own = {**WELL["PRX_EMAIL"], "WAKE": "", "AUTO_SCHEDULE": False}
    assert found(deploy=True, PRX_EMAIL=own, Q_CLUSTER={"retry": 1, "timeout": 5, "sync": True}) == []


class ToTheFile:
    """Routes everything to the database ``file``."""

    def db_for_read(self, model: object, **hints: object) -> str:
        return "file"

    db_for_write = db_for_read


@contextmanager
def sqlite_file(path: Path, options: dict[str, Any]) -> Iterator[None]:
    """Put the outbox into an additional SQLite database with these OPTIONS."""
    settings = connections.configure_settings({"default": {}, "file": {"ENGINE": "django.db.backends.sqlite3"}})
    wrapper = DatabaseWrapper({**settings["file"], "NAME": str(path), "OPTIONS": options}, "file")
    connections["file"] = wrapper
    try:
        with override_settings(DATABASE_ROUTERS=[ToTheFile()]):
            yield
    finally:
        wrapper.close()
        del connections["file"]


GOOD = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"}


@pytest.mark.parametrize(
    ("options", "numbers_expected"),
    [
        (GOOD, set()),
        ({}, {"W020", "W021"}),
        ({**GOOD, "init_command": "PRAGMA journal_mode=DELETE;"}, {"W020"}),
        ({**GOOD, "transaction_mode": "DEFERRED"}, {"W021"}),
    ],
)
def test_an_sqlite_file_that_locks_workers_out_is_named(
    tmp_path: Path, django_db_blocker: Any, options: dict[str, Any], numbers_expected: set[str]
) -> None:
    with django_db_blocker.unblock(), sqlite_file(tmp_path / "outbox.sqlite3", options):
        # In this order: the second check must not depend on the connection that the first check opens.
        fired = database.check_immediate(databases=["file"]) + database.check_write_ahead_log(databases=["file"])
        unasked = database.check_write_ahead_log(databases=None) + database.check_immediate(databases=["default"])
    assert numbers(fired) == numbers_expected
    assert all(message.hint for message in fired)
    assert unasked == []


def test_the_database_checks_run_with_migrate() -> None:
    names = {check.__name__ for check in checks.registry.registry.get_checks() if "database" in check.tags}
    assert {"check_write_ahead_log", "check_immediate", "check_character_set"} <= names
