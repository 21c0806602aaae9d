"""Run all tests on every database that this machine has, and name the databases that were not reached.

``PRX_TEST_ENGINES="sqlite postgresql"`` narrows the databases; arguments go to pytest.  With ``CI=true`` a missing
database, Redis or browser is a failure.  A run in which no test passed is always a failure.  Tests that do not depend
on the database run once, and the random exploration (``stateful``) runs on one database, another one each time.
``PRX_TEST_MATRIX=1`` says that ``make matrix`` runs too: what both would run on SQLite is left to it.

Several runs work side by side, because many tests wait for a server or a process.  The output of the first run appears
at once, the output of each other run when the runs before it have ended.  A table at the end tells what each run cost.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent))
import facilities

ROOT = Path(__file__).resolve().parent.parent
ENGINES = {"sqlite": facilities.sqlite, "postgresql": facilities.postgresql, "mariadb": facilities.mariadb}
SERVICES = {"redis": facilities.redis, "browser": facilities.browser}
#: pytest's exit code when it has found no test to run.
NO_TESTS = 5
CI = os.environ.get("CI", "").lower() in {"1", "true"}
#: The newest cell of the matrix has all integration tests on SQLite but the ``long`` ones.
WITH_MATRIX = os.environ.get("PRX_TEST_MATRIX") == "1"
#: Runs at the same time: an acceptance run keeps a processor busy for a third of its time.
SIDE_BY_SIDE = 5 * (os.cpu_count() or 1) // 2
#: Runs into which the acceptance tests of a database are divided: as one run they would end long after all others.
PARTS = 2


@dataclass(frozen=True)
class Finding:
    """One line of the summary: a database or a service, and whether the machine has it."""

    name: str
    text: str
    reached: bool
    failed: bool = False


def probe(name: str, version_of: Callable[[], str]) -> Finding:
    """Look for a database or a service; a missing one is a failure only in CI."""
    try:
        return Finding(name, version_of(), reached=True)
    except facilities.NotReached as reason:
        return Finding(name, f"not reached: {reason}", reached=False, failed=CI)


@dataclass(frozen=True)
class Run:
    """A process of pytest on one database; ``marks`` selects its tests (an expression for ``-m``)."""

    engine: Finding
    marks: str
    #: Folders and options for pytest; empty means all tests.
    where: tuple[str, ...] = ()
    #: Arguments may have selected no test of this run.
    may_be_empty: bool = False

    @property
    def title(self) -> str:
        """The heading above the output."""
        selected = " ".join([*self.where, *([f"({self.marks})"] if self.marks else [])])
        return f"{self.engine.name} {self.engine.text} {selected}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``wall`` and ``processor`` are seconds, the second with all processes that it started."""

    code: int
    passed: int
    failed: bool
    wall: float
    processor: float


def perform(run: Run, arguments: list[str], output: IO[bytes] | None) -> Outcome:
    """Run pytest; it prints to ``output``, or to this process's own output if that is None."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        marks = ["-m", run.marks] if run.marks else []
        pytest = ["-m", "pytest", f"--junit-xml={report}", *marks, *run.where, *arguments]
        command = [sys.executable, "-W", "error", *pytest]
        environment = {**os.environ, "DATABASE": run.engine.name}
        begun = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        wall, processor = time.monotonic() - begun, used.ru_utime + used.ru_stime
        passed = count_passed(report)
    empty = run.may_be_empty and code == NO_TESTS
    return Outcome(code, passed, not empty and (code != 0 or not passed), wall, processor)


def folders() -> list[str]:
    """Return the folders of tests that pyproject.toml names."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    return [str(folder) for folder in options["testpaths"]]


def plan(engines: list[Finding], deselect: str, arguments: list[str]) -> list[Run]:
    """Divide the tests into runs, long ones first; ``deselect`` leaves out the tests of missing services."""
    if not engines:
        return []

    def marks(*expressions: str) -> str:
        return " and ".join(filter(None, [deselect, *expressions]))

    first, *more = engines
    if arguments:  # somebody waits for the output: the first run prints the results of all selected tests at once
        return [Run(first, marks()), *(Run(engine, marks("not engine_free"), may_be_empty=True) for engine in more)]
    explored = random.choice(engines)  # noqa: S311  (not a secret)
    rows = marks("not engine_free")
    # What the other runs do not have, so that no new folder is forgotten; all tests in tests/unit are engine_free.
    not_unit = set(folders()) - {"tests/simulation", "tests/unit"}
    others = tuple(sorted(not_unit - {"tests/acceptance"}))
    acceptance = [
        Run(engine, rows, ("tests/acceptance", f"--part={part}/{PARTS}"))
        for part in range(1, PARTS + 1)
        for engine in engines
    ]
    return [
        *acceptance[:3],
        Run(first, marks("engine_free"), tuple(sorted(not_unit))),
        Run(first, marks(), ("tests/simulation",)),  # it only computes
        *acceptance[3:],
        Run(first, marks(), ("tests/unit",)),
        *(
            Run(
                engine,
                marks(
                    "not engine_free",
                    "" if engine is explored else "not stateful",
                    "long" if engine.name == "sqlite" and WITH_MATRIX else "",
                ),
                others,
            )
            for engine in engines
        ),
    ]


def perform_all(runs: list[Run], arguments: list[str]) -> list[tuple[Run, Outcome]]:
    """Perform all runs; return each with its outcome."""
    outcomes: list[tuple[Run, Outcome]] = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool, ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) if run is not runs[0] else None for run in runs]
        futures = [pool.submit(perform, run, arguments, output) for run, output in zip(runs, outputs, strict=True)]
        for run, output, future in zip(runs, outputs, futures, strict=True):
            if output is None:
                print(f"\n=== {run.title}", flush=True)
            outcomes.append((run, future.result()))
            if output is not None:
                print(f"\n=== {run.title}", flush=True)
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
                sys.stdout.flush()
    return outcomes


def with_result(engine: Finding, outcomes: list[Outcome]) -> Finding:
    """Return the engine with the result of its runs; an engine that was not reached has no runs."""
    if not outcomes:
        return engine
    passed = sum(outcome.passed for outcome in outcomes)
    codes = ", ".join(str(outcome.code) for outcome in outcomes if outcome.failed)
    verdict = f"FAILED ({passed} tests passed, exit code {codes})" if codes else f"{passed} tests passed"
    return Finding(engine.name, f"{engine.text}: {verdict}", reached=True, failed=bool(codes))


def print_costs(outcomes: list[tuple[Run, Outcome]], wall: float) -> None:
    """Print the seconds of each run and of all; below two processors in use, the runs have waited for each other."""
    print("\nWhat it cost\n  tests  seconds  processor seconds")
    for run, outcome in outcomes:
        print(f"{outcome.passed:>7}{outcome.wall:>9.0f}{outcome.processor:>19.0f}  {run.title}")
    processor = sum(outcome.processor for _, outcome in outcomes)
    print(f"{sum(outcome.passed for _, outcome in outcomes):>7}{wall:>9.0f}{processor:>19.0f}  all")


def count_passed(report: Path) -> int:
    """Count the passed tests in pytest's report; 0 if there is no report."""
    if not report.exists():
        return 0
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  (pytest has just written it)
    others = ("failures", "errors", "skipped")
    return sum(int(suite.get("tests", 0)) - sum(int(suite.get(kind, 0)) for kind in others) for suite in suites)


def print_summary(findings: Iterable[Finding]) -> None:
    """Print one line for each database and service."""
    print("\nWhat was tested")
    for finding in findings:
        print(f"  {finding.name:<11}{finding.text}")


def main(arguments: list[str]) -> int:
    """Return 0 if every test has passed on every database and service that was reached."""
    os.chdir(ROOT)
    wanted = os.environ.get("PRX_TEST_ENGINES", "").replace(",", " ").split() or list(ENGINES)
    if unknown := set(wanted) - set(ENGINES):
        print(f"PRX_TEST_ENGINES names {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}", file=sys.stderr)
        return 2
    services = [probe(name, version_of) for name, version_of in SERVICES.items()]
    deselect = " and ".join(f"not {service.name}" for service in services if not service.reached)
    probed = [probe(name, ENGINES[name]) for name in wanted]
    begun = time.monotonic()
    outcomes = perform_all(plan([engine for engine in probed if engine.reached], deselect, arguments), arguments)
    wall = time.monotonic() - begun
    engines = [with_result(engine, [outcome for run, outcome in outcomes if run.engine == engine]) for engine in probed]
    ran = any(engine.reached for engine in engines)
    left_out = [Finding(name, "not wanted (PRX_TEST_ENGINES)", reached=False) for name in ENGINES if name not in wanted]
    print_costs(outcomes, wall)
    print_summary([*engines, *left_out, *services])
    return int(not ran or any(finding.failed for finding in [*engines, *services]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
