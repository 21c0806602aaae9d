"""Checks of ``Q_CLUSTER`` if django-q2 is installed: settings under which mail would be late or sent twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from django.core import checks

from prx_email_django.checks.project import TAG, settings_in_force
from prx_email_django.conf import OutboxSettings, reader
from prx_email_django.conf.settings import DJANGO_Q_WAKE
from prx_email_django.models.managers import outbox_alias

NAME = "Q_CLUSTER"
#: Default of django-q2, in seconds.
DEFAULT_RETRY = 60
#: Settings that choose a broker other than Redis, or none.
OTHER_BROKERS = ("orm", "mongo", "sqs", "iron_mq", "disque_nodes", "broker_class", "sync")

#: Message and hint of what a rule found, or None.
Finding = tuple[str, str] | None
Rule = Callable[[Mapping[str, Any], OutboxSettings], Finding]


def _rule(rule_id: str, *, deploy: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule as a system check that applies it to ``Q_CLUSTER`` if the cluster runs drains of this app."""

    def register(rule: Rule) -> Rule:
        def check(**_: Any) -> list[checks.CheckMessage]:
            settings = settings_in_force()
            if settings is None or not reader.django_q_installed():
                return []
            if settings.wake != DJANGO_Q_WAKE and not settings.auto_schedule:
                return []
            found = rule(reader.q_cluster(), settings)
            if found is None:
                return []
            message, hint = found
            return [checks.Warning(message, hint=hint, obj=NAME, id=f"prx_email_django.{rule_id}")]

        checks.register(check, TAG, deploy=deploy)
        return rule

    return register


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@_rule("W010")
def check_retry(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W010: django-q2 starts a second run of a task that has run for longer than ``retry``."""
    retry, budget = cluster.get("retry", DEFAULT_RETRY), settings.drain_time_budget.total_seconds()
    if not _is_number(retry) or retry >= budget:
        return None
    message = f'Q_CLUSTER["retry"] ({retry:g} s) is shorter than DRAIN_TIME_BUDGET ({budget:g} s).'
    hint = f"django-q2 starts a second drain while the first runs. Set retry to at least {budget:g}, better 600."
    return message, hint


@_rule("W011")
def check_timeout(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W011: if ``timeout`` is not shorter than ``retry``, the cluster repeats tasks that still run."""
    retry, timeout = cluster.get("retry", DEFAULT_RETRY), cluster.get("timeout")
    if not _is_number(retry) or not _is_number(timeout) or timeout < retry:
        return None
    message = f'Q_CLUSTER["timeout"] ({timeout:g} s) is not shorter than its "retry" ({retry:g} s).'
    return message, "django-q2 repeats tasks while they run. Set retry to more than timeout."


@_rule("W012", deploy=True)
def check_attempts(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W012: without ``ack_failures`` or ``max_attempts`` a task of the host that raises is repeated without end.

    The drain tasks acknowledge their failures themselves, but wait behind the host's tasks in the same cluster.
    """
    if cluster.get("ack_failures") or cluster.get("max_attempts"):
        return None
    message = 'Q_CLUSTER has neither "ack_failures" nor "max_attempts": a task that raises is repeated without end.'
    hint = 'Such tasks occupy the workers that drains need. Set "max_attempts": 5, or "ack_failures": True.'
    return message, hint


@_rule("W013")
def check_alias(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W013: a broker in another database can fail or be restored separately from the outbox."""
    alias, own = cluster.get("orm"), outbox_alias()
    if not alias or alias == own:
        return None
    message = f'Q_CLUSTER["orm"] is the database "{alias}", but the outbox is in "{own}".'
    return message, f'A message may be committed while its wake-up is lost. Set "orm": "{own}".'


@_rule("W014", deploy=True)
def check_sync(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W014: in sync mode a wake-up drains inside the request that queued the message, and no schedule runs."""
    if not cluster.get("sync"):
        return None
    message = 'Q_CLUSTER["sync"] is on: mail is sent inside the request that queues it, and no schedule runs.'
    return message, "Use sync mode in tests only; in production run qcluster."


@_rule("W015")
def check_cluster_name(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W015: a schedule without a cluster name runs only in the cluster whose name is ``Q_CLUSTER["name"]``."""
    name, own = cluster.get("name", "default"), cluster.get("cluster_name")
    if not settings.auto_schedule or not own or own == name:
        return None
    message = f'Q_CLUSTER["cluster_name"] is "{own}" but its "name" is "{name}": this cluster runs no drains.'
    return message, f'Remove "cluster_name", or set the cluster of the schedule to "{own}" in the admin.'


@_rule("W016")
def check_scheduler(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W016: without the scheduler only wake-ups start drains, so retries wait for the next queued message."""
    if not settings.auto_schedule or cluster.get("scheduler", True):
        return None
    message = 'Q_CLUSTER["scheduler"] is off: retries and planned messages wait until another message is queued.'
    hint = "Switch the scheduler on in one cluster, or run flush_outbox --loop and set AUTO_SCHEDULE to False."
    return message, hint


@_rule("W017")
def check_broker(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W017: django-q2 uses Redis by default, but does not install the Redis client."""
    if any(cluster.get(name) for name in OTHER_BROKERS) or find_spec("redis") is not None:
        return None
    message = "Q_CLUSTER names no broker, so django-q2 uses Redis, but the Redis client is not installed."
    hint = 'Set Q_CLUSTER = {"orm": "default", …}, install redis, or remove django_q from INSTALLED_APPS.'
    return message, hint
