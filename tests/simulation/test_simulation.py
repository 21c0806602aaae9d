"""Schedules for a minute; the same seed does the same again; rules that are broken on purpose are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mutations import MUTATIONS

#: Seconds for schedules by chance; ``make soak`` takes an hour.
SECONDS = float(os.environ.get("PRX_SIMULATION_SECONDS", "60"))
#: The first seed and the most schedules: the same ones each time, so that a change alone turns the test red.  ``make
#: soak`` begins elsewhere each time.
SEED, SCHEDULES = "680000", "250"


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
    done = simulate("--broken", name, "--faults", MUTATIONS[name][1], "--seconds", "120")
    assert done.returncode == 1
    assert " WRONG: " in done.stdout
