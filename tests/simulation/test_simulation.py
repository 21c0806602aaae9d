"""Some hundred schedules; the same seed does the same again; rules that are broken on purpose are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mutations import MUTATIONS

#: The most seconds for the schedules, on a machine that is busy; ``make soak`` takes an hour.
SECONDS = float(os.environ.get("PRX_SIMULATION_SECONDS", "150"))
#: The first seed and the number of schedules of each process: the same ones each time, so that a change alone turns the
#: test red.  ``make soak`` begins elsewhere each time.  All tests here take about 100 seconds of one processor.
SEED, SCHEDULES = "680000", "150"


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the simulation in a process of its own: it replaces clocks and network of the whole process."""
    command = [sys.executable, "-W", "error", "-m", "tests.simulation", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS + 240, check=False, env=os.environ | environment
    )
    sys.stdout.write(done.stdout + done.stderr)
    return done


@pytest.mark.timeout(SECONDS + 300)
def test_no_schedule_loses_copies_or_blocks_anything() -> None:
    done = simulate("--seconds", str(SECONDS), "--seed", SEED, "--schedules", SCHEDULES)
    assert done.returncode == 0, "the story stands above"
    assert " 0 wrong" in done.stdout


def test_a_seed_tells_the_same_story_again() -> None:
    """Also where the ORM compiles each statement anew: what the simulation keeps of them changes nothing."""
    assert simulate("--only", "11").stdout == simulate("--only", "11", PRX_SIMULATION_PLAIN="1").stdout


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_rule_that_is_broken_on_purpose_is_found(name: str) -> None:
    # Several processes would each look until they find it.
    seconds = ("--seconds", "120", "--processes", "1")
    _, faults, seed = MUTATIONS[name]
    done = simulate("--broken", name, "--faults", faults, "--seed", seed, *seconds)
    assert done.returncode == 1
    assert " WRONG: " in done.stdout
