"""What ``Q_CLUSTER`` says, where django-q2 is installed: traps that show in its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from django.core import checks

from prx_email_django import conf
from prx_email_django.checks.project import TAG, settings_in_force
from prx_email_django.models.managers import outbox_alias

NAME = "Q_CLUSTER"
#: django-q2's own, in seconds.
DEFAULT_RETRY = 60
#: What chooses a broker other than Redis, or none.
OTHER_BROKERS = ("orm", "mongo", "sqs", "iron_mq", "disque_nodes", "broker_class", "sync")

Rule = Callable[[Mapping[str, Any], conf.OutboxSettings], tuple[str, str] | None]


def _run(rule: Rule, rule_id: str) -> list[checks.CheckMessage]:
    """Judge ``Q_CLUSTER`` by one rule, where it steers our drains at all."""
    settings = settings_in_force()
    if settings is None or not conf.django_q_installed():
        return []
    if settings.wake != conf.DJANGO_Q_WAKE and not settings.auto_schedule:
        return []
    found = rule(conf.q_cluster(), settings)
    return [checks.Warning(found[0], hint=found[1], obj=NAME, id=f"prx_email_django.{rule_id}")] if found else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@checks.register(TAG)
def check_retry(**_: Any) -> list[checks.CheckMessage]:
    """W010: django-q2 starts a task again, beside the first, when it has run for longer than ``retry``."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        retry, budget = cluster.get("retry", DEFAULT_RETRY), settings.drain_time_budget.total_seconds()
        if not _is_number(retry) or retry >= budget:
            return None
        message = f'Q_CLUSTER["retry"] ({retry:g} s) is shorter than DRAIN_TIME_BUDGET ({budget:g} s).'
        return message, f"Every drain is started again while it runs. Write {budget:g} or more, better 600."

    return _run(rule, "W010")


@checks.register(TAG)
def check_timeout(**_: Any) -> list[checks.CheckMessage]:
    """W011: with a ``timeout`` of ``retry`` or more, the cluster repeats tasks that it has not given up."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        retry, timeout = cluster.get("retry", DEFAULT_RETRY), cluster.get("timeout")
        if not _is_number(retry) or not _is_number(timeout) or timeout < retry:
            return None
        message = f'Q_CLUSTER["timeout"] ({timeout:g} s) is not shorter than its "retry" ({retry:g} s).'
        return message, "Tasks are repeated while they run. Write a retry that is longer than the timeout."

    return _run(rule, "W011")


@checks.register(TAG, deploy=True)
def check_attempts(**_: Any) -> list[checks.CheckMessage]:
    """W012: without ``ack_failures`` or ``max_attempts`` a task of the host that raises is repeated for ever.

    Ours acknowledge their failures themselves, but they wait behind those of the host in the same cluster.
    """

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        if cluster.get("ack_failures") or cluster.get("max_attempts"):
            return None
        message = 'Q_CLUSTER has neither "ack_failures" nor "max_attempts": a task that raises is repeated for ever.'
        return message, 'Such tasks take the workers from the drains. Write "max_attempts": 5, or "ack_failures": True.'

    return _run(rule, "W012")


@checks.register(TAG)
def check_alias(**_: Any) -> list[checks.CheckMessage]:
    """W013: a broker in another database has other failures than the outbox, and other backups."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        alias, ours = cluster.get("orm"), outbox_alias()
        if not alias or alias == ours:
            return None
        message = f'Q_CLUSTER["orm"] is the database "{alias}", the outbox is in "{ours}".'
        return message, f'Mail may be committed and its wake-up lost. Write "orm": "{ours}".'

    return _run(rule, "W013")


@checks.register(TAG, deploy=True)
def check_sync(**_: Any) -> list[checks.CheckMessage]:
    """W014: in sync mode a wake-up drains inside the request that queued the mail, and no schedule is run."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        if not cluster.get("sync"):
            return None
        message = 'Q_CLUSTER["sync"] is on: mail is sent inside the request that queues it, and no schedule is run.'
        return message, "Leave it to tests; in production run qcluster."

    return _run(rule, "W014")


@checks.register(TAG)
def check_cluster_name(**_: Any) -> list[checks.CheckMessage]:
    """W015: a schedule without a cluster's name is run only by the cluster whose name is ``Q_CLUSTER["name"]``."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        name, own = cluster.get("name", "default"), cluster.get("cluster_name")
        if not settings.auto_schedule or not own or own == name:
            return None
        message = f'Q_CLUSTER["cluster_name"] is "{own}" and its "name" is "{name}": this cluster skips our schedule.'
        return message, f'Leave "cluster_name" out, or write "{own}" into the schedule\'s cluster in the admin.'

    return _run(rule, "W015")


@checks.register(TAG)
def check_scheduler(**_: Any) -> list[checks.CheckMessage]:
    """W016: without the scheduler only wake-ups drain, and what becomes due later waits for the next one."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        if not settings.auto_schedule or cluster.get("scheduler", True):
            return None
        message = 'Q_CLUSTER["scheduler"] is off: retries and mail for later wait until something else is queued.'
        return message, "Switch it on for one cluster, or run flush_outbox --loop and set AUTO_SCHEDULE to False."

    return _run(rule, "W016")


@checks.register(TAG)
def check_broker(**_: Any) -> list[checks.CheckMessage]:
    """W017: django-q2 takes Redis where nothing else is named, and does not bring its client along."""

    def rule(cluster: Mapping[str, Any], settings: conf.OutboxSettings) -> tuple[str, str] | None:
        if any(cluster.get(name) for name in OTHER_BROKERS) or find_spec("redis") is not None:
            return None
        message = (
            "Q_CLUSTER names no broker, so django-q2 wants Redis, whose client is not installed: no worker is woken."
        )
        return (
            message,
            'Write Q_CLUSTER = {"orm": "default", …}, install redis, or take django_q out of INSTALLED_APPS.',
        )

    return _run(rule, "W017")
