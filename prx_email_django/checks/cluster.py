"""Checks of ``Q_CLUSTER`` if django-q2 is installed: settings under which mail would be late or sent twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from django.core import checks
from django.utils.translation import gettext as _

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
        def check(**kwargs: Any) -> list[checks.CheckMessage]:
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
    message = _('Q_CLUSTER["retry"] (%(retry)s s) is shorter than DRAIN_TIME_BUDGET (%(budget)s s).') % {
        "retry": f"{retry:g}",
        "budget": f"{budget:g}",
    }
    hint = _("django-q2 starts a second drain while the first runs. Set retry to at least %(budget)s, better 600.") % {
        "budget": f"{budget:g}"
    }
    return message, hint


@_rule("W011")
def check_timeout(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W011: if ``timeout`` is not shorter than ``retry``, the cluster repeats tasks that still run."""
    retry, timeout = cluster.get("retry", DEFAULT_RETRY), cluster.get("timeout")
    if not _is_number(retry) or not _is_number(timeout) or timeout < retry:
        return None
    message = _('Q_CLUSTER["timeout"] (%(timeout)s s) is not shorter than its "retry" (%(retry)s s).') % {
        "timeout": f"{timeout:g}",
        "retry": f"{retry:g}",
    }
    return message, _("django-q2 repeats tasks while they run. Set retry to more than timeout.")


@_rule("W012", deploy=True)
def check_attempts(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W012: without ``ack_failures`` or ``max_attempts`` a task of the host that raises is repeated without end.

    The drain tasks acknowledge their failures themselves, but wait behind the host's tasks in the same cluster.
    """
    if cluster.get("ack_failures") or cluster.get("max_attempts"):
        return None
    message = _('Q_CLUSTER has neither "ack_failures" nor "max_attempts": a task that raises is repeated without end.')
    hint = _('Such tasks occupy the workers that drains need. Set "max_attempts": 5, or "ack_failures": True.')
    return message, hint


@_rule("W013")
def check_alias(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W013: a broker in another database can fail or be restored separately from the outbox."""
    alias, own = cluster.get("orm"), outbox_alias()
    if not alias or alias == own:
        return None
    message = _('Q_CLUSTER["orm"] is the database "%(alias)s", but the outbox is in "%(own)s".') % {
        "alias": alias,
        "own": own,
    }
    return message, _('A message may be committed while its wake-up is lost. Set "orm": "%(own)s".') % {"own": own}


@_rule("W014", deploy=True)
def check_sync(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W014: in sync mode a wake-up drains inside the request that queued the message, and no schedule runs."""
    if not cluster.get("sync"):
        return None
    message = _('Q_CLUSTER["sync"] is on: mail is sent inside the request that queues it, and no schedule runs.')
    return message, _("Use sync mode in tests only; in production run qcluster.")


@_rule("W015")
def check_cluster_name(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W015: a schedule without a cluster name runs only in the cluster whose name is ``Q_CLUSTER["name"]``."""
    name, own = cluster.get("name", "default"), cluster.get("cluster_name")
    if not settings.auto_schedule or not own or own == name:
        return None
    message = _('Q_CLUSTER["cluster_name"] is "%(own)s" but its "name" is "%(name)s": this cluster runs no drains.') % {
        "own": own,
        "name": name,
    }
    return message, _('Remove "cluster_name", or set the cluster of the schedule to "%(own)s" in the admin.') % {
        "own": own
    }


@_rule("W016")
def check_scheduler(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W016: without the scheduler only wake-ups start drains, so retries wait for the next queued message."""
    if not settings.auto_schedule or cluster.get("scheduler", True):
        return None
    message = _('Q_CLUSTER["scheduler"] is off: retries and planned messages wait until another message is queued.')
    hint = _("Switch the scheduler on in one cluster, or run flush_outbox --loop and set AUTO_SCHEDULE to False.")
    return message, hint


@_rule("W017")
def check_broker(cluster: Mapping[str, Any], settings: OutboxSettings) -> Finding:
    """W017: django-q2 uses Redis by default, but does not install the Redis client."""
    if any(cluster.get(name) for name in OTHER_BROKERS) or find_spec("redis") is not None:
        return None
    message = _("Q_CLUSTER names no broker, so django-q2 uses Redis, but the Redis client is not installed.")
    hint = _('Set Q_CLUSTER = {"orm": "default", …}, install redis, or remove django_q from INSTALLED_APPS.')
    return message, hint
