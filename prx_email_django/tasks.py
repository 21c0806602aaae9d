"""Tasks for django-q2: the scheduled drain, the drain that a wake-up starts, and the wake-up itself.

django-q2 runs a task at least once, and twice in parallel when a task runs longer than the cluster's ``retry``.  Any
number of drains may run at the same time, because every message is claimed under its own lease.  A drain task catches
every exception and returns only a number, because django-q2 repeats a failed task without end and stores the text of
its exception.  ``django_q`` is imported inside functions only, so that this module can be imported without it.
"""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from prx_email_django import api
from prx_email_django.api.wake import in_caller_if
from prx_email_django.conf import outbox_settings
from prx_email_django.errors import WrongInstance
from prx_email_django.models.managers import outbox_alias
from prx_email_django.results import DrainReport
from prx_email_django.store.absence import is_away, may_pass
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import claim_purge
from prx_email_django.store.purge import PurgeReport, purge_idle
from prx_email_django.transports.smtp.session_state import MIN_RATE
from prx_email_django.worker.heartbeat import working_as

logger = logging.getLogger("prx_email_django")

#: The scheduled function, and the name of its schedule.
SCHEDULED = "prx_email_django.tasks.drain_outbox"
SCHEDULE_NAME = "prx-email: drain outbox"
#: What a wake-up starts.
WOKEN = "prx_email_django.tasks.drain_due"
#: Seconds beyond budget and body: for a started envelope, closing connections, and recording results.
MARGIN = 120
#: Seconds that a server has for its final reply, plus time for the size (``ConnectionSettings.final_timeout``).
FINAL_REPLY = 600
#: Bytes on the wire for each byte of an attachment: base64 with line ends.
BASE64 = 78 / 57


def drain_outbox() -> int | None:
    """The scheduled drain: send due messages, and wait within ``DRAIN_TIME_BUDGET`` for messages that become due.

    Returns the number of messages sent, or None if the drain failed (the log says why).
    """
    return _drain(wait=True)


def drain_due() -> int | None:
    """The drain that a wake-up starts: like ``drain_outbox``, without waiting for messages to become due."""
    return _drain(wait=False)


def _is_own_database() -> bool:
    """Whether django-q2's broker is the outbox's own database: a wake-up is one INSERT of the caller's connection.

    Also in its sync mode, in which the caller runs the drain.
    """
    from django_q.conf import Conf

    if Conf.SYNC:
        return True
    comes_first = Conf.BROKER_CLASS or Conf.IRON_MQ or isinstance(Conf.SQS, dict)
    return not comes_first and bool(outbox_alias() == Conf.ORM)


@in_caller_if(_is_own_database)
def wake() -> None:
    """Start a drain in the cluster now.  The default of the setting ``WAKE`` if django-q2 is installed.

    Exceptions of the broker are raised; the caller logs them, and the scheduled drain sends the messages.
    """
    from django_q.tasks import async_task

    async_task(WOKEN, task_name="prx-email: wake", q_options=q_options())


def q_options() -> dict[str, Any]:
    """Return the options by which django-q2 runs the drain tasks.

    ``ack_failure``: a task whose worker was stopped is not repeated without end.  ``save`` and ``cached``: a success
    is not stored, because a drain each minute would displace the host's own results.  ``timeout`` (seconds) is longer
    than a healthy drain: the budget, and the longest body that may still be in transmission when the budget ends.
    """
    return {"ack_failure": True, "save": False, "cached": False, "timeout": task_timeout()}


def task_timeout() -> int:
    """Return the seconds after which django-q2 stops a drain; an integer, because django-q2 sets an alarm."""
    settings = outbox_settings()
    longest_body = FINAL_REPLY + settings.attachment_max_size * BASE64 / MIN_RATE
    return math.ceil(settings.drain_time_budget.total_seconds() + longest_body) + MARGIN


def purge_if_time() -> PurgeReport | None:
    """Purge one bounded batch by ``RETENTION``, at most once an hour over all workers; None if it is not time.

    What keeps a row (a foreign key of the host, a receiver) is logged, and ends no loop.
    """
    clock = clock_for(None)
    if not claim_purge(clock=clock):
        return None
    try:
        return purge_idle(clock=clock)
    except Exception as error:
        if may_pass(error):
            raise
        logger.error("nothing more could be purged: %s", _without_text(error))  # noqa: TRY400  (that has the text)
        return None


def _drain(*, wait: bool) -> int | None:
    try:
        budget = outbox_settings().drain_time_budget.total_seconds()
        with working_as("task"):
            report = api.drain(time_budget=budget, wait=wait)
        if wait and _is_idle(report, budget):
            purge_if_time()
    except (WrongInstance, ImproperlyConfigured) as error:
        logger.error("nothing is sent: %s", error)
    except Exception as error:  # noqa: BLE001  (django-q2 would store the text, which may quote an address)
        if is_away(error):
            logger.error("the database cannot be used; the next drain tries again")
            return None
        logger.error("a drain ended with %s", _without_text(error))
    else:
        return report.sent
    return None


def _without_text(error: Exception) -> str:
    """Class and stack of an error whose text may quote an address."""
    return f"{type(error).__name__}:\n{''.join(traceback.format_tb(error.__traceback__))}"


def _is_idle(report: DrainReport, budget: float) -> bool:
    """Return whether the drain ended because no message was left, not because its budget ended."""
    return report.seconds < budget
