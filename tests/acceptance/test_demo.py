"""The example project as a newcomer runs it: ``make demo`` and ``make serve`` in processes of their own."""

from __future__ import annotations

import contextlib
import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path

import pytest

from example_project.catcher.inbox import Inbox
from example_project.tour import table
from example_project.tour.run import play
from example_project.tour.telling import Scene, Step, Surprise, Told, expect

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "example_project"
LIMIT = 200


def environment(folder: Path) -> dict[str, str]:
    """Without the settings of the tests, which pytest has put there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DATABASE")}
    return {**kept, "DJANGO_SETTINGS_MODULE": "tests.settings", "EXAMPLE_VAR": str(folder), "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One run of the demo, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(EXAMPLE / "demo.py")]
    run = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return run, folder


def rows(output: str) -> dict[str, str]:
    """Number of a step -> its row, columns one below the other in one text."""
    middle = output.split("-" * table.WIDTH)[1]
    found = {}
    for block in middle.strip("\n").split("\n\n"):
        lines = block.splitlines()
        edges = [0, 4, 39, 50, None]
        cells = [" ".join(line[a:b].strip() for line in lines).strip() for a, b in pairwise(edges)]
        found[cells[0]] = " | ".join(cells[1:])
    return found


def test_a_newcomer_is_not_told_a_tale(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, folder = demo
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    told = rows(run.stdout)
    expected = {
        "1": r"\| sent \|.*TLSv1\.[23], password.*<outbox-1-0@shop\.example>",
        "2": r"one transaction \| sent \| payment failed: no order, no message",
        "3": r"send_mail.*\| sent \|.*from Lantern Books <orders@shop\.example>",
        "4": r"OAuth.*\| sent \|.*XOAUTH2",
        "5": r"PDF.*\| sent \|.*invoice\.pdf.*unchanged.*terms\.txt.*unchanged",
        "6": r"\| sent, 1 refused \|.*nobody@: refused, 550 5\.1\.1",
        "7": r"\| failed, then sent \| the server: 450 4\.2\.1.*waits 2 s",
        "8": r"\| sent \| “Re: Is it signed\?”",
        "9": r"\| held, then sent \|.*may have been delivered.*confirms it: sent",
        "10": r"\| paused, then sent \|.*connection failed.*sends both reports",
        "11": r"1000 newsletters \| sent \| 1000 sent in .* messages a second.*none of them twice",
    }
    assert list(told) == list(expected)
    for number, pattern in expected.items():
        assert re.search(pattern, told[number]), told[number]
    assert "make serve" in run.stdout
    assert "user admin, password admin" in run.stdout
    assert len(list((folder / "inbox" / "new").iterdir())) == 1012


def test_the_table_fits_a_terminal(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, _ = demo
    lines = run.stdout.splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert not [line for line in lines if line != line.rstrip() or "\x1b" in line or "\t" in line]


def test_no_secret_is_printed_or_logged(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    run, folder = demo
    logged = "".join(log.read_text() for log in folder.glob("*.log"))
    for secret in ("correct horse", "a password of reports", "a secret of the newsletter"):
        assert secret not in run.stdout + logged


def test_a_step_that_ends_otherwise_ends_the_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def lie(scene: Scene) -> Told:
        expect("copies", len(scene.inbox.find("<nowhere@example.org>")), 1)
        return Told("sent", ("all is well",))

    scene = Scene(var=tmp_path, inbox=Inbox(tmp_path / "inbox"), ports={})
    with pytest.raises(Surprise, match="step 1 did not end as told: copies: 0, but 1 was expected"):
        play([Step("Send", lie)], scene)
    told = capsys.readouterr().out
    assert "SURPRISE" in told
    assert "all is well" not in told


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``make serve``, and what it prints until it is up."""
    command = [sys.executable, str(EXAMPLE / "serve.py"), "--port", "0"]
    process = subprocess.Popen(
        command, env=environment(folder), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # A start that hangs ends here; the end of its output then ends the loop.
    guard = threading.Timer(LIMIT, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if line.startswith("Ctrl-C"):
                break
        yield process, told
    finally:
        process.terminate()
        process.communicate()
        guard.cancel()


def wait_for_mail(inbox: Inbox, subject: str) -> EmailMessage:
    """The first message of that subject, looked for as long as it may take."""
    over = threading.Event()
    timer = threading.Timer(100, over.set)
    timer.start()
    try:
        while not over.wait(0.1):
            for name, header in inbox.headers():
                if header["Subject"] == subject:
                    return inbox.read(name)
        pytest.fail(f"no mail “{subject}” has come")
    finally:
        timer.cancel()


def is_alive(leader: int) -> bool:
    """Whether anybody is left of the group of processes that began with this one (a cluster has workers)."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_order_on_the_page_is_mailed_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, told):
        page = re.search(r"shop +(http://127\.0\.0\.1:\d+/)", told)
        pids = [int(pid) for pid in re.findall(r"(?:web|catcher|qcluster) (\d+)", told)]
        assert page and len(pids) == 3, told
        browser = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), urllib.request.ProxyHandler({})
        )

        def get(path: str = "", **form: str) -> str:
            data = urllib.parse.urlencode(form).encode() if form else None
            return str(browser.open(page[1] + path, data=data, timeout=60).read().decode())

        key = re.search(r'csrfmiddlewaretoken" value="(\w+)"', get())
        assert key
        order = {"csrfmiddlewaretoken": key[1], "name": "Zoë", "email": "zoe@example.org"}
        assert "The payment failed" in get(**order, book="Never", fail="on")
        assert "message 1 is queued" in get(**order, book="Moby Dick")

        letter = wait_for_mail(Inbox(tmp_path / "inbox"), "Your order 1: Moby Dick")
        assert letter["To"] == "Zoë <zoe@example.org>"
        assert "Your order 1: Moby Dick" in get("inbox/")
        assert "Never" not in get("inbox/") + get()
        assert "Log in" in get("admin/")

        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 0
        assert not [pid for pid in pids if is_alive(pid)]


def test_two_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, told):
        assert process.poll() is None, told
        before = sorted(tmp_path.iterdir())
        command = [sys.executable, str(EXAMPLE / "demo.py")]
        run = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert (run.returncode, run.stdout) == (1, "")
        assert "is in use by another make demo or make serve" in run.stderr
        assert set(before) <= set(tmp_path.iterdir())
