"""Runs all tests on every database that this machine has, and names those that it could not reach.

``PRX_TEST_ENGINES="sqlite postgresql"`` narrows the databases; arguments go to pytest.  With ``CI=true`` whatever is
missing is a failure.  A run in which no test passed is a failure always.  Coverage is measured on the first database,
where no argument narrows the run: it doubles the time.  The databases are tested side by side, and beside them, once,
what no database has a part in: many tests wait, for a server or for a process.  The first run prints as it goes; what
the others print comes whole, when they are done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
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
#: pytest's exit code where it found nothing to run.
NO_TESTS = 5
CI = os.environ.get("CI", "").lower() in {"1", "true"}


@dataclass(frozen=True)
class Finding:
    """One line of the summary."""

    name: str
    text: str
    reached: bool
    failed: bool = False


def probe(name: str, look: Callable[[], str]) -> Finding:
    """Look whether the machine has it; to lack something is a failure only in CI."""
    try:
        return Finding(name, look(), reached=True)
    except facilities.NotReached as reason:
        return Finding(name, f"not reached: {reason}", reached=False, failed=CI)


@dataclass(frozen=True)
class Run:
    """Tests on one database, in a process of their own; ``marks`` says which."""

    engine: Finding
    marks: str
    measured: bool = False
    #: Arguments may have chosen nothing that this run has a part in.
    may_be_empty: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    code: int
    passed: int
    failed: bool


def run(one: Run, arguments: list[str], output: IO[bytes] | None) -> Outcome:
    """Prints to ``output``, where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        pytest = ["-m", "pytest", f"--junit-xml={report}", *(["-m", one.marks] if one.marks else []), *arguments]
        command = [sys.executable, "-W", "error", *(["-m", "coverage", "run"] if one.measured else []), *pytest]
        environment = {**os.environ, "DATABASE": one.engine.name}
        code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
        passed = count_passed(report)
    empty = one.may_be_empty and code == NO_TESTS
    return Outcome(code, passed, failed=not empty and (code != 0 or not passed))


def plan(engines: list[Finding], deselect: str, arguments: list[str]) -> list[Run]:
    """What no database has a part in runs once; by itself, where nothing narrows the run."""
    if not engines:
        return []
    free, bound = (" and ".join(filter(None, [deselect, mark])) for mark in ("engine_free", "not engine_free"))
    first, *others = engines
    if arguments:  # for the one who waits for them
        return [Run(first, deselect), *(Run(one, bound, may_be_empty=True) for one in others)]
    return [Run(first, bound, measured=True), Run(first, free, measured=True), *(Run(one, bound) for one in others)]


def run_all(engines: list[Finding], deselect: str, arguments: list[str]) -> list[Finding]:
    """All engines side by side; each with what came of it."""
    runs = plan([engine for engine in engines if engine.reached], deselect, arguments)
    outcomes: list[tuple[Run, Outcome]] = []
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        beside: list[tuple[Run, IO[bytes], Future[Outcome]]] = []
        for one in runs[1:]:
            output = stack.enter_context(tempfile.TemporaryFile())
            beside.append((one, output, pool.submit(run, one, arguments, output)))
        for one in runs[:1]:
            heading(one)
            outcomes.append((one, run(one, arguments, None)))
        for one, printed, future in beside:
            outcomes.append((one, future.result()))
            heading(one)
            printed.seek(0)
            shutil.copyfileobj(printed, sys.stdout.buffer)
            sys.stdout.flush()
    return [told(engine, [outcome for one, outcome in outcomes if one.engine == engine]) for engine in engines]


def told(engine: Finding, outcomes: list[Outcome]) -> Finding:
    """An engine with what came of its runs; one that was not reached has none."""
    if not outcomes:
        return engine
    passed = sum(one.passed for one in outcomes)
    failed = [one for one in outcomes if one.failed]
    codes = ", ".join(str(one.code) for one in failed)
    verdict = f"FAILED ({passed} tests passed, exit code {codes})" if failed else f"{passed} tests passed"
    return Finding(engine.name, f"{engine.text}: {verdict}", reached=True, failed=bool(failed))


def heading(one: Run) -> None:
    """What the following lines are about."""
    print(f"\n=== {one.engine.name} {one.engine.text}{f' ({one.marks})' if one.marks else ''}", flush=True)


def count_passed(report: Path) -> int:
    """How many tests passed, by pytest's own report; 0 where there is none."""
    if not report.exists():
        return 0
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  (pytest has just written it)
    return sum(
        int(s.get("tests", 0)) - sum(int(s.get(k, 0)) for k in ("failures", "errors", "skipped")) for s in suites
    )


def coverage(*, gate: bool) -> bool:
    """Put the runs together; the limit of pyproject.toml holds only where everything could run."""
    command = [sys.executable, "-m", "coverage"]
    subprocess.run([*command, "combine", "--quiet"], check=True)
    report = [*command, "report", *([] if gate else ["--fail-under=0"])]
    return subprocess.run(report, check=False).returncode == 0


def summary(findings: Iterable[Finding]) -> None:
    """The plain words at the end."""
    print("\nWhat was tested")
    for finding in findings:
        print(f"  {finding.name:<11}{finding.text}")


def main(arguments: list[str]) -> int:
    """0 where every test on everything reached has passed."""
    os.chdir(ROOT)
    wanted = os.environ.get("PRX_TEST_ENGINES", "").replace(",", " ").split() or list(ENGINES)
    if unknown := set(wanted) - set(ENGINES):
        print(f"PRX_TEST_ENGINES names {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}", file=sys.stderr)
        return 2
    subprocess.run([sys.executable, "-m", "coverage", "erase"], check=True)
    services = [probe(name, look) for name, look in SERVICES.items()]
    deselect = " and ".join(f"not {service.name}" for service in services if not service.reached)
    engines = [probe(name, ENGINES[name]) for name in wanted]
    engines = run_all(engines, deselect, arguments)
    ran = any(engine.reached for engine in engines)
    complete = not arguments and set(wanted) == set(ENGINES) and all(f.reached for f in [*engines, *services])
    covered = not ran or bool(arguments) or coverage(gate=complete)
    left_out = [Finding(n, "not asked for (PRX_TEST_ENGINES)", reached=False) for n in ENGINES if n not in wanted]
    summary([*engines, *left_out, *services])
    if not covered:
        print("  coverage   FAILED: below the limit in pyproject.toml")
    return int(not ran or not covered or any(f.failed for f in [*engines, *services]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
