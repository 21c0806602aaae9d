"""Runs all tests on every database that this machine has, and names those that it could not reach.

``PRX_TEST_ENGINES="sqlite postgresql"`` narrows the databases; arguments go to pytest.  With ``CI=true`` whatever is
missing is a failure.  A run in which no test passed is a failure always.  Coverage is measured where no argument
narrows the run.  The databases are tested side by side: most tests wait, for a server or for a process.  The first one
prints as it goes; what the others print comes whole, when they are done.
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


def run(engine: Finding, deselect: str, arguments: list[str], output: IO[bytes] | None) -> Finding:
    """All tests on one database, in a process of their own; prints to ``output``, where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        pytest = ["-m", "pytest", f"--junit-xml={report}", *(["-m", deselect] if deselect else []), *arguments]
        # Narrowed runs are for the one who waits for them: nothing is measured.
        measured = [] if arguments else ["-m", "coverage", "run"]
        command = [sys.executable, "-W", "error", *measured, *pytest]
        environment = {**os.environ, "DATABASE": engine.name}
        code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
        passed = count_passed(report)
    verdict = f"{passed} tests passed" if code == 0 and passed else f"FAILED ({passed} tests passed, exit code {code})"
    return Finding(engine.name, f"{engine.text}: {verdict}", reached=True, failed=bool(code) or not passed)


def run_all(engines: list[Finding], deselect: str, arguments: list[str]) -> list[Finding]:
    """All engines side by side; what no database has a part in runs with the first one only."""
    first, *others = [engine for engine in engines if engine.reached] or [None]
    if first is None:
        return engines
    again = " and ".join(filter(None, [deselect, "not engine_free"]))
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        beside: list[tuple[Finding, IO[bytes], Future[Finding]]] = []
        for engine in others:
            output = stack.enter_context(tempfile.TemporaryFile())
            beside.append((engine, output, pool.submit(run, engine, again, arguments, output)))
        heading(first)
        done = {first.name: run(first, deselect, arguments, None)}
        for engine, output, future in beside:
            done[engine.name] = future.result()
            heading(engine)
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
            sys.stdout.flush()
    return [done.get(engine.name, engine) for engine in engines]


def heading(engine: Finding) -> None:
    """What the following lines are about."""
    print(f"\n=== {engine.name} {engine.text}", flush=True)


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
