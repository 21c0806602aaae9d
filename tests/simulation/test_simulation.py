"""Some hundred schedules; the same seed does the same again; rules that are broken on purpose are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mutations import MUTATIONS

#: The most seconds for the schedules, on a machine that is busy; ``make soak`` takes an hour.
SECONDS = float(os.environ.get("PRX_SIMULATION_SECONDS", "900"))
#: The first seed, processes, and schedules of each: the same ones each time and everywhere, so that a change alone
#: turns the test red.  ``make soak`` begins elsewhere each time.  All tests here take 35 seconds of one processor.
SEED, PROCESSES, SCHEDULES = "680000", "2", "170"


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
    size = ("--processes", PROCESSES, "--schedules", SCHEDULES)
    done = simulate("--seconds", str(SECONDS), "--seed", SEED, *size)
    assert done.returncode == 0, "the story stands above"
    assert done.stdout.count(f"{SCHEDULES} schedules from seed ") == int(PROCESSES), "they must be played to the end"
    assert done.stdout.count(" 0 wrong") == int(PROCESSES)


def test_a_seed_tells_the_same_story_again() -> None:
    """Also where the ORM compiles each statement anew: those that the simulation prepares change nothing."""
    story = simulate("--only", "108").stdout
    assert len(story.splitlines()) > 100, "a short story shows little"
    assert simulate("--only", "108", PRX_SIMULATION_PLAIN="1").stdout == story


@pytest.fixture(scope="module")
def findings() -> list[str]:
    """What was found, one line for each broken rule: all are played in one process, since its start takes longest."""
    return simulate("--broken", "all").stdout.splitlines()


@pytest.mark.timeout(SECONDS + 300)  # the first waits for all of them
@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_rule_that_is_broken_on_purpose_is_found(name: str, findings: list[str]) -> None:
    (line,) = [line for line in findings if line.startswith(f"{name}: ")]
    assert ": seed " in line, line
