"""The example project as a new user runs it: ``make demo`` and ``make serve`` in separate processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from example_project.catcher.inbox import Inbox
from example_project.demo.runner import run_steps
from example_project.demo.steps import DemoContext, Step, StepResult, UnexpectedResult, expect

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "example_project"
LIMIT = 200


def environment(folder: Path) -> dict[str, str]:
    """Return the environment without the test settings that pytest has set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DATABASE")}
    return {
        **inherited,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "EXAMPLE_VAR": str(folder),
        "PYTHONWARNINGS": "error",
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One run of the demo, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(EXAMPLE / "run_demo.py")]
    run = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return run, folder


def printed_steps(output: str) -> dict[str, str]:
    """Return the panel of each step as one line of text, by the number of the step."""
    panels = re.findall(r"^╭─ (\d+)\. (.*?)╰", output, re.DOTALL | re.MULTILINE)
    return {number: " ".join(re.sub("[╭─╮│]", " ", panel).split()) for number, panel in panels}


def test_every_step_prints_what_really_happened(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, folder = demo
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    steps = printed_steps(run.stdout)
    expected = {
        "1": r": sent .*TLSv1\.[23], authenticated with a password.*<outbox-1-0@shop\.example>",
        "2": r"one transaction Result: sent .*neither order nor message exists.*committed together",
        "3": r"send_mail.*: sent .*From: Lantern Books <orders@shop\.example>",
        "4": r"OAuth token Result: sent .*XOAUTH2",
        "5": r"PDF.*: sent .*invoice\.pdf.*unchanged.*terms\.txt.*unchanged",
        "6": r": sent, 1 recipient refused .*nobody@example\.org: refused with “550 5\.1\.1",
        "7": r": failed, then sent .*“450 4\.2\.1.*due after 2 s",
        "8": r": sent “Re: Is it signed\?”",
        "9": r": held, then confirmed as sent .*may have been delivered.*its status is now “sent”",
        "10": r": paused, then sent .*connection failed.*sent both messages",
        "11": r"1000 newsletters Result: sent 1000 messages in .* messages a second.*no message twice",
    }
    assert list(steps) == list(expected)
    for number, pattern in expected.items():
        assert re.search(pattern, steps[number]), steps[number]
    screen = run.stdout[run.stdout.index("What became of the mail") :]
    assert len(screen.splitlines()) <= 24, "the end must fit one screen"
    framed = [line.strip("│").strip() for line in screen.splitlines() if line.startswith("│")]
    assert max(map(len, framed)) <= 76, "a line would be broken in a terminal of 80 columns"
    assert "make serve" in screen
    assert "user admin, password admin" in run.stdout
    assert len(list((folder / "inbox" / "new").iterdir())) == 1012


def test_the_output_fits_a_terminal_and_has_no_escapes_in_a_pipe(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    run, _ = demo
    lines = run.stdout.splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert not [line for line in lines if line != line.rstrip() or "\x1b" in line or "\t" in line]


def test_no_secret_is_printed_or_logged(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, folder = demo
    logged = "".join(log.read_text() for log in folder.glob("*.log"))
    for secret in ("correct horse", "a password of reports", "a secret of the newsletter"):
        assert secret not in run.stdout + logged


def test_an_unexpected_result_ends_the_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(context: DemoContext) -> StepResult:
        expect("copies", len(context.inbox.find("<nowhere@example.org>")), 1)
        return StepResult("sent", ("a copy arrived",))

    context = DemoContext(var=tmp_path, inbox=Inbox(tmp_path / "inbox"), ports={})
    with pytest.raises(UnexpectedResult, match="step 1 did not end as expected: copies: 0, but 1 was expected"):
        run_steps([Step("Send", fail)], context)
    output = capsys.readouterr().out
    assert "UNEXPECTED" in output
    assert "a copy arrived" not in output


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``make serve``; yield the process and its output until it is ready."""
    command = [sys.executable, str(EXAMPLE / "serve.py"), "--port", "0"]
    process = subprocess.Popen(
        command, env=environment(folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # The timer ends a start that hangs; the end of the output then ends the loop.
    guard = threading.Timer(LIMIT, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("Ctrl-C"):
                break
        yield process, output
    finally:
        process.terminate()
        process.communicate()
        guard.cancel()


def test_two_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, output):
        assert process.poll() is None, output
        before = sorted(tmp_path.iterdir())
        command = [sys.executable, str(EXAMPLE / "run_demo.py")]
        run = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert (run.returncode, run.stdout) == (1, "")
        assert "is in use by another make demo or make serve" in run.stderr
        assert set(before) <= set(tmp_path.iterdir())
