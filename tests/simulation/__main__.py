"""Run schedules, one after the other, until the time is over or one of them fails: ``python -m tests.simulation``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

# Read before anything is put on the simulated clock.
monotonic = time.monotonic


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every schedule was right."""
    options = _parser().parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings must be the seed's too
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *(arguments or sys.argv[1:])])
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.simulation.settings"
    from tests.simulation.running import Runner

    runner = Runner(kinds=options.faults)
    try:
        return _run(runner, options)
    finally:
        runner.close()


def _run(runner: object, options: argparse.Namespace) -> int:
    from tests.simulation.running import Runner

    assert isinstance(runner, Runner)
    if options.only is not None:
        story = runner.play(options.only, always=True)
        print(story.text)
        return int(story.failed)
    begun, seed, failed = monotonic(), options.seed, 0
    last = None if options.schedules is None else seed + options.schedules
    while monotonic() - begun < options.seconds and (last is None or seed < last):
        story = runner.play(seed)
        if story.failed:
            failed += 1
            print(story.text if failed <= options.stories else story.headline, flush=True)
            if failed >= options.failures:
                break
        seed += options.step
    seconds = monotonic() - begun
    count = (seed - options.seed) // options.step
    print(f"{count} schedules from seed {options.seed} in {seconds:.1f} s, {failed} failed; {runner.figures()}")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="end after so many seconds (60)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--step", type=int, default=1, help="from one seed to the next (1)")
    parser.add_argument("--schedules", type=int, help="end after so many schedules")
    parser.add_argument("--only", type=int, metavar="SEED", help="play this seed and print its story")
    parser.add_argument("--failures", type=int, default=1, help="end after so many failures (1)")
    parser.add_argument("--stories", type=int, default=1, help="print the stories of so many failures (1)")
    parser.add_argument(
        "--faults", type=lambda text: text.split(","), help="kinds of trouble, with commas; default: all but some"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
