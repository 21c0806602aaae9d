"""Runs the steps and prints their results."""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import NoReturn

import django
from django.conf import settings
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from example_project.catcher.authority import make_authority
from example_project.catcher.inbox import Inbox
from example_project.catcher.process import Catcher, CatcherDied
from example_project.demo.steps import DemoContext, Step, StepResult, UnexpectedResult
from example_project.folder import InUse, empty, occupied
from example_project.output import console
from example_project.ports import free_port

#: Seconds after which the demo gives up; it usually takes about ten.
TIME_LIMIT = 90


def main() -> int:
    """Run the demo; return 0 if every step ended as expected."""
    started = time.monotonic()
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal without “ in its encoding must not end the demo
        sys.stdout.reconfigure(errors="replace")
    try:
        limit_to(TIME_LIMIT)
        with set_up() as context:
            count = run_steps(all_steps(), context)
            # Imports models, so only after django.setup().
            from example_project.demo.summary import print_summary

            print_summary(context)
    except (InUse, CatcherDied, UnexpectedResult) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    console.print(f"All {count} steps ended as expected, in {time.monotonic() - started:.0f} seconds.", style="green")
    return 0


def limit_to(seconds: int) -> None:
    """After ``seconds`` print where the demo is and raise ``UnexpectedResult``, so that it ends in every case."""

    def give_up(*_: object) -> NoReturn:
        faulthandler.dump_traceback()
        raise UnexpectedResult(f"not finished after {seconds} seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)


@contextmanager
def set_up() -> Iterator[DemoContext]:
    """An empty folder, a new database and a running mail server for the length of the block."""
    var = settings.VAR
    with ExitStack() as stack:
        stack.enter_context(occupied(var))
        empty(var)
        make_authority(var)
        ports = {"reports": free_port(), **stack.enter_context(Catcher(var, tls=0, starttls=0)).ports}
        django.setup()
        from example_project.prepare import prepare

        prepare(ports)
        print_introduction(ports)
        yield DemoContext(var=var, inbox=Inbox(settings.INBOX), ports=ports)


def all_steps() -> Sequence[Step]:
    """Return all steps in order; their modules import models, so only after ``django.setup()``."""
    from example_project.demo import failures, sending, volume

    return (*sending.STEPS, *failures.STEPS, *volume.STEPS)


def run_steps(steps: Sequence[Step], context: DemoContext) -> int:
    """Run and print all steps; return their number.  Raises ``UnexpectedResult`` at the first unexpected result."""
    for number, step in enumerate(steps, 1):
        try:
            result = step.run(context)
        except UnexpectedResult as problem:
            print_step(number, step, StepResult("UNEXPECTED", (str(problem),)), style="red")
            raise UnexpectedResult(f"step {number} did not end as expected: {problem}") from problem
        except Exception:
            print_step(number, step, StepResult("ERROR", ("see the traceback below",)), style="red")
            raise
        print_step(number, step, result)
    return len(steps)


def print_step(number: int, step: Step, result: StepResult, *, style: str = "green") -> None:
    """Print a step and its result as a panel."""
    text = Text("Result: ").append(f"{result.outcome}\n", style=style).append("\n".join(result.lines))
    console.print(Panel(text, title=Text(f"{number}. {step.title}"), title_align="left"))


def print_introduction(ports: Mapping[str, int]) -> None:
    """Print what runs where."""
    console.print(f"Demo of prx_email_django on Django {django.get_version()} and SQLite.", style="bold")
    console.print("The mail servers belong to the example: no message leaves this machine. Times are in UTC.")
    accounts = Table("Account", "Mail server", "Security", "Authentication")
    accounts.add_row("orders", f"127.0.0.1:{ports['tls']}", "TLS", "password")
    accounts.add_row("newsletter", f"127.0.0.1:{ports['starttls']}", "STARTTLS", "OAuth token")
    accounts.add_row("reports", f"127.0.0.1:{ports['reports']} (down until step 10)", "STARTTLS", "password")
    console.print(accounts)
