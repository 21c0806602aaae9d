"""Plays the steps and prints the table."""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import django
from django.conf import settings

from example_project.catcher.authority import make_authority
from example_project.catcher.inbox import Inbox
from example_project.catcher.process import Catcher, CatcherDied
from example_project.folder import InUse, empty, occupied
from example_project.ports import free_port
from example_project.tour import table
from example_project.tour.telling import Scene, Step, Surprise, expect

#: Seconds; some ten are usual.
LONGEST = 90


def main() -> int:
    """The whole tour; 0 where everything ended as told."""
    begun = time.monotonic()
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that knows no “ is no reason to fail
        sys.stdout.reconfigure(errors="replace")
    try:
        limit_to(LONGEST)
        with set_up() as scene:
            number = play(all_steps(), scene)
            farewell(scene)
    except (InUse, CatcherDied, Surprise) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    table.say(f"All {number} steps ended as told, in {time.monotonic() - begun:.0f} seconds.")
    return 0


def limit_to(seconds: int) -> None:
    """Raise ``Surprise`` from whatever the tour is doing then, and say where: it ends by itself, come what may."""

    def give_up(*_: object) -> NoReturn:
        faulthandler.dump_traceback()
        raise Surprise(f"not done after {seconds} seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)


@contextmanager
def set_up() -> Iterator[Scene]:
    """An empty folder, a new database, a mail server; all of it is over when the block is."""
    var = settings.VAR
    with ExitStack() as stack:
        stack.enter_context(occupied(var))
        empty(var)
        make_authority(var)
        ports = {"reports": free_port(), **stack.enter_context(Catcher(var, tls=0, starttls=0)).ports}
        django.setup()
        from example_project.prepare import prepare

        prepare(ports)
        greeting(ports)
        yield Scene(var=var, inbox=Inbox(settings.INBOX), ports=ports)


def all_steps() -> Sequence[Step]:
    """In the order of the tour; they import models, so only after ``django.setup``."""
    from example_project.tour import sending, trouble, volume

    return (*sending.STEPS, *trouble.STEPS, *volume.STEPS)


def play(steps: Sequence[Step], scene: Scene) -> int:
    """Play and print all of them; returns how many.  Raises ``Surprise`` at the first that ends otherwise."""
    table.heading()
    for number, step in enumerate(steps, 1):
        try:
            told = step.play(scene)
        except Surprise as surprise:
            table.row(number, asked=step.asked, ended="SURPRISE", happened=[str(surprise)])
            raise Surprise(f"step {number} did not end as told: {surprise}") from surprise
        except Exception:
            table.row(number, asked=step.asked, ended="ERROR", happened=["see below"])
            raise
        table.row(number, asked=step.asked, ended=told.ended, happened=told.happened)
    return len(steps)


def greeting(ports: dict[str, int]) -> None:
    """Where everything is."""
    table.say(f"A tour of prx_email_django, on Django {django.get_version()} and SQLite.")
    table.say("The mail servers are the example's own: nothing leaves this machine. Times are in UTC.")
    table.say()
    table.pairs(
        [
            ("orders", f"account at 127.0.0.1:{ports['tls']}: TLS, password"),
            ("newsletter", f"account at 127.0.0.1:{ports['starttls']}: STARTTLS, OAuth token"),
            ("reports", f"account at 127.0.0.1:{ports['reports']}: STARTTLS, password; its server is down"),
        ]
    )
    table.say()


def farewell(scene: Scene) -> None:
    """How the outbox stands now, and where to look."""
    from example_project.prepare import ADMIN, ADMIN_PASSWORD
    from example_project.tour.counters import counters

    accounts = counters()
    arrived = len(scene.inbox.names())
    table.rule()
    table.columns(("account", "sent", "waiting", "at rest", "now"), accounts)
    table.say()
    expect("messages in the inbox", arrived, sum(sent for _, sent, *_ in accounts))
    table.say(f"Every one of them is in the inbox of the example's mail server, once: {arrived} messages.")
    table.say()
    table.say("Look around:")
    table.pairs(
        [
            (
                "make serve",
                f"these messages in the admin (user {ADMIN}, password {ADMIN_PASSWORD}), and a shop to order from",
            ),
            ("inbox", f"{shown(scene.var / 'inbox')}, one file a message"),
            ("log", f"{shown(scene.var / 'outbox.log')}"),
        ]
    )
    table.say()


def shown(path: Path) -> str:
    """A path as short as it can be said."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
