"""Lets the schedule see what the app does: reports, late results, log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError

from prx_email_django.results import DrainReport
from prx_email_django.worker.drain import Drain
from prx_email_django.worker.recorder import Recorder
from tests.simulation.known import Known


def watch(known: Callable[[], Known], story: Callable[[str], None], fail: Callable[[str], None]) -> None:
    """Keep each drain's report, note late results, and put log lines into the story."""
    run, count = Drain.run, Recorder._count

    def reporting(self: Any) -> DrainReport:
        try:
            report = run(self)
        except BaseException:
            known().broken_drains += 1
            raise
        known().reports.append(report)
        return report

    def counting(self: Any, attempt: Any) -> None:
        if attempt.late:
            known().late.add(attempt.message.pk)
        elif attempt.progress:
            known().progress += 1
        count(self, attempt)

    Drain.run = reporting  # type: ignore[method-assign]
    Recorder._count = counting  # type: ignore[method-assign]

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            story(f"log {record.levelname}: {record.getMessage()}")
            if record.exc_info and record.exc_info[0] is not None:
                error = record.exc_info[1]
                story(f"    because of {type(error).__name__}: {error}")
                if not isinstance(error, DatabaseError):
                    fail(f"an unexpected error was logged: {record.getMessage()}: {type(error).__name__}: {error}")

    logger = logging.getLogger("prx_email_django")
    logger.handlers[:] = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
