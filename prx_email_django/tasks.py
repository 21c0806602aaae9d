"""django-q2's face: the scheduled drain, the one that a wake-up starts, and the wake-up itself.

django-q2 delivers at least once, and in parallel when a task outlives the cluster's ``retry``: a drain is safe under
any number of copies, since every message is claimed under a lease of its own.  Nothing here raises and nothing is
handed over but small numbers: django-q2 delivers a task that failed again and again, and keeps the text of whatever
reached it.  ``django_q`` is imported inside functions only, so that this module can be imported without it.
"""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from django.db import OperationalError

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.errors import WrongInstance
from prx_email_django.results import DrainReport
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import claim_purge
from prx_email_django.store.purge import PurgeReport, purge_idle
from prx_email_django.transports.smtp.session_state import MIN_RATE

logger = logging.getLogger("prx_email_django")

#: The scheduled function, and the name of its schedule.
SCHEDULED = "prx_email_django.tasks.drain_outbox"
SCHEDULE_NAME = "prx-email: drain outbox"
#: What a wake-up starts.
WOKEN = "prx_email_django.tasks.drain_due"
#: Seconds for what is neither budget nor body: an envelope under way, closing connections, recording results.
MARGIN = 120
#: Seconds that a server has for its final reply, beside what the size needs (``ConnectionSettings.final_timeout``).
FINAL_REPLY = 600
#: Octets on the wire for one octet of an attachment: base64 with its line ends.
BASE64 = 78 / 57


def drain_outbox() -> int | None:
    """The scheduled drain: what is due, and within ``DRAIN_TIME_BUDGET`` what becomes due.

    Returns the number of messages sent, None where nothing could be done (the log tells why).
    """
    return _drain(wait=True)


def drain_due() -> int | None:
    """What a wake-up starts: as ``drain_outbox``, but it never waits for a message to become due."""
    return _drain(wait=False)


def wake() -> None:
    """Start a drain in the cluster, now: what ``WAKE`` stands for where django-q2 is installed.

    Raises whatever the broker raises; the caller logs it, and the schedule catches up.
    """
    from django_q.tasks import async_task

    async_task(WOKEN, task_name="prx-email: wake", q_options=q_options())


def q_options() -> dict[str, Any]:
    """How django-q2 should handle our tasks.

    ``ack_failure``: a worker that was stopped is not run again for ever.  ``save`` and ``cached``: a success leaves
    nothing behind, or a drain a minute would push the host's own results out.  ``timeout`` (seconds) never fires in a
    healthy drain: the budget, and the longest body that may still be on its way when it ends.
    """
    return {"ack_failure": True, "save": False, "cached": False, "timeout": task_timeout()}


def task_timeout() -> int:
    """Seconds after which django-q2 may take a drain for dead; whole, since it sets an alarm."""
    settings = outbox_settings()
    longest_body = FINAL_REPLY + settings.attachment_max_size * BASE64 / MIN_RATE
    return math.ceil(settings.drain_time_budget.total_seconds() + longest_body) + MARGIN


def purge_if_time() -> PurgeReport | None:
    """Purge one bounded batch by ``RETENTION``, at most once an hour over all workers; None: not now."""
    clock = clock_for(None)
    return purge_idle(clock=clock) if claim_purge(clock=clock) else None


def _drain(*, wait: bool) -> int | None:
    try:
        budget = outbox_settings().drain_time_budget.total_seconds()
        report = api.drain(time_budget=budget, wait=wait)
        if wait and _is_idle(report, budget):
            purge_if_time()
    except WrongInstance as error:
        logger.error("nothing is sent: %s", error)
    except OperationalError:
        logger.error("the database cannot be used; the next drain tries again")
    except Exception as error:  # noqa: BLE001  (django-q2 would store its text, which may quote an address)
        stack = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a drain ended with %s:\n%s", type(error).__name__, stack)
    else:
        return report.sent
    return None


def _is_idle(report: DrainReport, budget: float) -> bool:
    """Whether the drain ended because there was nothing left, not because its time was over."""
    return report.seconds < budget
