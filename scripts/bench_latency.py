"""``make bench-latency``: how long a message takes from ``enqueue`` until the server has accepted it, with a loop.

The clock begins before ``enqueue`` and ends when the worker has read the reply to the message.  It takes turns with
nothing: run it on a machine that is quiet.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from benchmark import environment

DATABASES = ("sqlite", "postgresql", "mariadb")


def main() -> None:
    """Measure each database, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100, help="of each database (default 100)")
    parser.add_argument("--accounts", type=int, default=1, help="of which one sends (default 1)")
    parser.add_argument("--pause", type=float, default=0.7, help="longest pause between two, in seconds (default 0.7)")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one; repeatable")
    options = parser.parse_args()
    print("database | median ms | 99th | longest | enqueue, median | CPU of the idle loop")
    given = {"DJANGO_SETTINGS_MODULE": "benchmark.latency_settings", "WITHOUT_DJANGO_Q": "1"}
    arguments = [str(options.messages), str(options.accounts), str(options.pause)]
    for database in options.database or DATABASES:
        line = subprocess.run(
            [sys.executable, "-m", "benchmark.run_latency", *arguments],
            env=environment.variables() | given | {"DATABASE": database},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        print(f"{database} | {line.strip()}", flush=True)


if __name__ == "__main__":
    os.environ.pop("DATABASE_NAME", None)
    main()
