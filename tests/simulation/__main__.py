"""Play schedules until the time is over or one of them fails, and print the story of what failed.

The first seed is another one each time, unless it is given; it is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.running import Runner

# Bound before the app is put on the simulated clock.
monotonic = time.monotonic
processor_time = time.process_time
#: From one process's first seed to the next one's.
FAR = 1_000_000
#: Schedules that may be played until a broken rule is found.
MOST = 300
#: ``--broken all``: every broken rule, one after the other.
ALL = "all"
#: A file system in memory, on Linux.
MEMORY = "/dev/shm"


def main() -> int:
    """Return 0 if every schedule was right."""
    options = _parser().parse_args()
    if options.seed is None:
        options.seed = int(time.time()) % 100_000 * 100
    if not options.child:
        return _run_processes(options)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.simulation.settings"
    from tests.simulation.running import Runner

    runner = Runner(kinds=options.faults, broken=None if options.broken == ALL else options.broken)
    try:
        if options.broken == ALL:
            return _find_all(runner, options)
        return _play_one(runner, options.only) if options.only is not None else _play(runner, options)
    finally:
        runner.close()


def _run_processes(options: argparse.Namespace) -> int:
    """Run one process, or several side by side, each with seeds of its own."""
    command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
    count = 1 if options.only is not None or options.broken == ALL else options.processes
    # Of two options the last one counts.
    seeds = [options.seed + number * FAR for number in range(count)]
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="simulation_", dir=place) as folder:
        # The order of a set of strings must be the seed's too.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PRX_SIMULATION_FOLDER": folder}
        running = [subprocess.Popen([*command, "--child", "--seed", str(seed)], env=environment) for seed in seeds]
        try:
            return max(process.wait() for process in running)
        finally:
            for process in running:
                process.kill()
                process.wait()


def _play_one(runner: Runner, seed: int) -> int:
    story = runner.play(seed, always=True)
    _say(story.text)
    return int(story.failed)


def _play(runner: Runner, options: argparse.Namespace) -> int:
    begun, seed, failed, worked = monotonic(), options.seed, 0, processor_time()
    last = None if options.schedules is None else seed + options.schedules
    while monotonic() - begun < options.seconds and (last is None or seed < last) and failed < options.failures:
        story = runner.play(seed)
        if story.failed:
            failed += 1
            _say(story.text if failed <= options.stories else story.headline)
        seed += 1
    count, seconds = seed - options.seed, monotonic() - begun
    took = f"{seconds:.0f} s ({processor_time() - worked:.0f} s of one processor)"
    _say(f"{count} schedules from seed {options.seed} in {took}, {failed} wrong: {runner.figures()}")
    return int(failed > 0)


def _find_all(runner: Runner, options: argparse.Namespace) -> int:
    """Break each rule in turn; 1: one of them was not found."""
    from tests.simulation.mutations import MUTATIONS

    lost = 0
    for name in sorted(MUTATIONS):
        begun = processor_time()
        count, story = runner.find(name, most=options.schedules or MOST)
        lost += story is None
        end = "not found" if story is None else story.headline
        _say(f"{name}: {count} schedules, {processor_time() - begun:.1f} s of one processor: {end}".splitlines()[0])
    return int(lost > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="end after so many seconds (60)")
    parser.add_argument("--seed", type=int, help="the first seed")
    parser.add_argument("--schedules", type=int, help="end after so many schedules, in each process")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="side by side (one a processor)")
    parser.add_argument("--only", type=int, metavar="SEED", help="play this seed and print its story")
    parser.add_argument("--failures", type=int, default=1, help="end after so many failures (1)")
    parser.add_argument("--stories", type=int, default=1, help="print the stories of so many failures (1)")
    parser.add_argument("--faults", type=lambda text: text.split(","), help="kinds of trouble, with commas between")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--broken", help="break a rule of the app by this name, or all, to see it found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
