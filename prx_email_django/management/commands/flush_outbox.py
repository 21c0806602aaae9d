"""``manage.py flush_outbox``: sends due messages, once or in a loop."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error, close_old_connections, connections
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from tqdm import tqdm

from prx_email_django import api
from prx_email_django.management._common import OutboxCommand, account_named, duration, first_line, plain_errors
from prx_email_django.management._loop import (
    CLOSELY_FOR,
    POLL,
    WATCH,
    WATCH_CLOSELY,
    Stop,
    Total,
    wait_for_wake_up,
)
from prx_email_django.models import Account
from prx_email_django.models.activity import LOOP
from prx_email_django.models.managers import outbox_alias
from prx_email_django.results import DrainReport
from prx_email_django.status.figures import outbox_status
from prx_email_django.store.absence import AT_EXIT, end_session, is_away, is_missing, unwritten
from prx_email_django.store.db import kept_connection
from prx_email_django.tasks import purge_if_time
from prx_email_django.worker.heartbeat import working_as
from prx_email_django.worker.idle import IdleConnections, keeping_connections
from prx_email_django.worker.loop import LONGEST_ABSENCE

logger = logging.getLogger("prx_email_django")

#: Longest wait between two tries while the database is unavailable, in seconds.
LONGEST_WAIT = 5.0
#: Seconds between two looks of an idle loop at whether it is time to purge.
ASK_FOR_PURGE = 60.0


#: Fields of the report, in the order of the summary.
_IN_WORDS = {
    "claimed": gettext_noop("%(count)d claimed"),
    "sent": gettext_noop("%(count)d sent"),
    "deferred": gettext_noop("%(count)d deferred"),
    "failed": gettext_noop("%(count)d failed"),
    "recovered": gettext_noop("%(count)d recovered"),
    "released": gettext_noop("%(count)d released"),
    "expired": gettext_noop("%(count)d expired"),
}


class Command(OutboxCommand):
    """Calls ``api.drain``."""

    help = gettext_noop(
        "Sends due messages and returns. With --loop it keeps running, drains after each commit and once "
        "a second, and purges by RETENTION when idle. SIGTERM, SIGINT or SIGHUP ends it cleanly: started "
        "messages are finished, the others are released. Any number of processes may run in parallel, on "
        "any number of machines. Exit code: 0 if it finished or was stopped, whatever happened to the "
        "messages (see outbox_status --check); 1 if it could not work (the error text says why)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add accounts, limits, loop and output options."""
        parser.add_argument(
            "--account", action="append", metavar="NAME", help=_("send only messages of this account; repeatable")
        )
        parser.add_argument("--limit", type=int, metavar="N", help=_("stop after N messages"))
        parser.add_argument(
            "--time-budget",
            type=duration,
            metavar="S",
            help=_("start no message after S seconds (or 10m, 2h), and stop"),
        )
        parser.add_argument(
            "--loop", action="store_true", help=_("keep running: drain after each commit, and once a second")
        )
        parser.add_argument(
            "--heartbeat", type=Path, metavar="FILE", help=_("update this file once a second, for a liveness probe")
        )
        parser.add_argument(
            "--dry-run", action="store_true", help=_("send nothing, print what is due and what prevents sending")
        )
        parser.add_argument("--json", action="store_true", help=_("print the summary as one JSON object"))
        parser.add_argument(
            "--no-progress", action="store_true", help=_("show no progress bar; it is shown only in a terminal")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Drain, then print a summary."""
        with plain_errors():
            names = [options["account"]] if isinstance(options["account"], str) else options["account"]
            accounts = None if names is None else [account_named(name) for name in names]
            if options["dry_run"]:
                self._print_due(names, as_json=options["json"])
                return
            seconds = options["time_budget"]
            stop = Stop(
                seconds=None if seconds is None else duration(seconds).total_seconds(),
                heartbeat=None if options["heartbeat"] is None else Path(options["heartbeat"]),
            )
            with stop.on_signals():
                run, kind = (self._loop, LOOP) if options["loop"] else (self._once, "command")
                with working_as(kind):
                    report = run(stop, accounts, options)
            self._summary(report, as_json=options["json"])
            if not report.claimed and not options["loop"] and not options["json"]:
                self._print_waiting(_accounts(names))

    def _once(self, stop: Stop, accounts: Sequence[Account] | None, options: dict[str, Any]) -> DrainReport:
        with _progress(accounts, limit=options["limit"], hidden=options["no_progress"]) as progress:
            return _drain(stop, accounts, options["limit"], progress)

    def _loop(self, stop: Stop, accounts: Sequence[Account] | None, options: dict[str, Any]) -> DrainReport:
        with kept_connection(), keeping_connections() as idle:
            return self._drain_again_and_again(stop, accounts, options, idle)

    def _drain_again_and_again(
        self, stop: Stop, accounts: Sequence[Account] | None, options: dict[str, Any], idle: IdleConnections
    ) -> DrainReport:
        begun, total, limit = monotonic(), Total(), options["limit"]
        wait, purge_at, watch_closely_until, worked_at = POLL, 0.0, 0.0, -math.inf
        while not stop() and (limit is None or total.taken() < limit):
            left = None if limit is None else limit - total.taken()
            counted = total.begin()
            try:
                close_old_connections()
                done = counted.report = _drain(stop, accounts, left, counted.note)
                total.complete(counted)
                worked_at = monotonic()
                if not done.claimed and not stop() and monotonic() >= purge_at:
                    purge_at = monotonic() + ASK_FOR_PURGE
                    purge_if_time()
                wait = POLL
                if done.claimed:
                    watch_closely_until = monotonic() + CLOSELY_FOR
                every = WATCH_CLOSELY if monotonic() < watch_closely_until else WATCH
                seconds = min(wait, max(0.0, idle.look_at - monotonic()))
                wait_for_wake_up(stop, seconds, every=every, tick=idle.release_closed)
            except Error as error:
                # Tables that were there a moment ago may be on their way back; a migration that is missing is not.
                if not is_away(error) and not (is_missing(error) and monotonic() - worked_at < LONGEST_ABSENCE):
                    raise
                if not counted.report.claimed:
                    total.complete(counted)
                wait = POLL if counted.report.claimed else min(wait * 2, LONGEST_WAIT)
                logger.error("the database cannot be used, next try in %g s: %s", wait, first_line(error))
                idle.cut()
                idle.leave()
                end_session(connections[outbox_alias()])
                connections.close_all()
                stop.wait(wait)
        # The process would wait for it anyway when it ends.
        unwritten.wait_until_written(AT_EXIT)
        return replace(total.report(), seconds=monotonic() - begun)

    def _print_due(self, names: Sequence[str] | None, *, as_json: bool) -> None:
        figures = _accounts(names)
        due = sum(account["due"] for account in figures)
        if as_json:
            accounts = {account["name"]: {"due": account["due"], "why": account["why"]} for account in figures}
            self.stdout.write(json.dumps({"due": due, "accounts": accounts}, ensure_ascii=False))
            return
        self.stdout.write(_("%(due)s due") % {"due": due})
        self._print_waiting(figures)

    def _print_waiting(self, figures: Sequence[dict[str, Any]]) -> None:
        """Print what is due and what prevents sending, for each account; no output would look like an empty outbox."""
        for account in figures:
            if account["due"]:
                due = _("%(due)s due") % {"due": account["due"]}
                self.stdout.write(f"  {account['name']}: {due}, {account['why']}")

    def _summary(self, report: DrainReport, *, as_json: bool) -> None:
        counts = {name: value for name, value in asdict(report).items() if name != "seconds"}
        if as_json:
            self.stdout.write(json.dumps({**counts, "seconds": round(report.seconds, 3)}))
            return
        words = _IN_WORDS.items()
        text = ", ".join(_(word) % {"count": counts[name]} for name, word in words if counts[name] or name == "sent")
        self.stdout.write(_("%(text)s in %(seconds)s s") % {"text": text, "seconds": f"{report.seconds:.1f}"})


def _accounts(names: Collection[str] | None) -> list[dict[str, Any]]:
    return [account for account in outbox_status()["accounts"] if names is None or account["name"] in names]


def _drain(
    stop: Stop,
    accounts: Sequence[Account] | None,
    limit: int | None,
    progress: Callable[[DrainReport], None] | None = None,
) -> DrainReport:
    return api.drain(limit=limit, accounts=accounts, time_budget=stop.remaining(), progress=progress, stop=stop)


@contextmanager
def _progress(
    accounts: Sequence[Account] | None, *, limit: int | None, hidden: bool
) -> Iterator[Callable[[DrainReport], None]]:
    """Show a progress bar on standard error if it is a terminal; yield the function that updates the bar."""
    bar: tqdm[Any] = tqdm(total=0, unit=_(" messages"), disable=True if hidden else None, leave=False)
    if not bar.disable:
        names = None if accounts is None else {account.name for account in accounts}
        due = sum(account["due"] for account in _accounts(names))
        bar.reset(total=due if limit is None else min(due, limit))

    def update(report: DrainReport) -> None:
        bar.update(report.sent + report.deferred + report.failed - bar.n)

    with bar:
        yield update
