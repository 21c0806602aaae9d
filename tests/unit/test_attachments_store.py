"""The attachment store: no path, and no change of its directories meanwhile, leads to a file outside of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prx_email_django.compose.attachment_store import read_stored
from prx_email_django.compose.attachments import AttachmentInput, AttachmentPolicy, load
from prx_email_django.errors import AttachmentRejected

SECRET = b"not for the mail"
LIMIT = 1000
UNTIMED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with files, and with links that lead out of it or nowhere."""
    root = tmp_path / "store"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.pdf").write_bytes(b"a")
    (root / "sub" / "b.pdf").write_bytes(b"b")
    (root / "sub" / "deep" / "c.pdf").write_bytes(b"c")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.pdf").write_bytes(SECRET)
    (root / "link.pdf").symlink_to("a.pdf")
    (root / "out.pdf").symlink_to(tmp_path / "outside" / "secret.pdf")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "sub" / "in").symlink_to("deep")
    (root / "loop").symlink_to("loop")
    (root / "dangling.pdf").symlink_to("nowhere")
    return root


def refusal(store: Path, path: str) -> tuple[str, str]:
    with pytest.raises(AttachmentRejected) as refused:
        read_stored(store, path, LIMIT)
    assert str(store) not in str(refused.value)
    return str(refused.value), refused.value.code


@pytest.mark.parametrize(("path", "content"), [("a.pdf", b"a"), ("sub/b.pdf", b"b"), ("sub/deep/c.pdf", b"c")])
def test_files_of_the_store_are_read(store: Path, path: str, content: bytes) -> None:
    assert read_stored(store, path, LIMIT) == content


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a.pdf",
        "/etc/passwd",
        "..",
        "../outside/secret.pdf",
        "sub/../a.pdf",
        "sub/../../outside/secret.pdf",
        "./a.pdf",
        "sub//b.pdf",
        "sub/",
        "a.pdf\x00",
        "a.pdf\x00.txt",
        "link.pdf",
        "out.pdf",
        "out/secret.pdf",
        "up/outside/secret.pdf",
        "up/store/a.pdf",
        "sub/in/c.pdf",
        "loop",
        "loop/a.pdf",
        "dangling.pdf",
    ],
)
def test_every_way_out_is_refused_in_the_documented_words(store: Path, path: str) -> None:
    assert refusal(store, path) == ("attachment path escapes storage root", "attachment_path_escapes_root")


@pytest.mark.parametrize(
    "path", ["nothing.pdf", "nowhere/a.pdf", "a.pdf/b.pdf", "sub", "\ud800.pdf", "x" * 300, "..\\a.pdf"]
)
def test_a_missing_file_is_reported_as_missing(store: Path, path: str) -> None:
    assert refusal(store, path)[1] == "attachment_not_found"


def test_a_fifo_or_socket_does_not_block_the_caller(store: Path) -> None:
    os.mkfifo(store / "fifo.pdf")
    assert refusal(store, "fifo.pdf")[1] == "attachment_not_found"
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(store, os.O_RDONLY)
        try:
            listener.bind(
                f"/proc/self/fd/{directory}/s.pdf" if Path("/proc/self/fd").exists() else str(store / "s.pdf")
            )
        finally:
            os.close(directory)
        assert refusal(store, "s.pdf")[1] == "attachment_not_found"


def test_the_size_is_judged_before_the_file_is_read(store: Path) -> None:
    with (store / "sparse.pdf").open("wb") as file:
        file.truncate(10**12)
    assert refusal(store, "sparse.pdf") == ("attachment exceeds size limit", "attachment_too_large")
    (store / "full.pdf").write_bytes(bytes(LIMIT))
    assert len(read_stored(store, "full.pdf", LIMIT)) == LIMIT
    (store / "over.pdf").write_bytes(bytes(LIMIT + 1))
    assert refusal(store, "over.pdf")[1] == "attachment_too_large"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file that is longer than its size")
def test_a_file_that_is_longer_than_its_size_is_refused() -> None:
    """Files of /proc have the size 0, like a file that grows between ``fstat`` and reading."""
    with pytest.raises(AttachmentRejected) as refused:
        read_stored("/proc/sys/kernel/random", "uuid", 10)
    assert refused.value.code == "attachment_too_large"


def test_a_missing_store_is_reported_as_not_configured(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing", "a.pdf")[1] == "attachment_store_not_configured"
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "file", "a.pdf")[1] == "attachment_store_not_configured"


def test_the_store_itself_may_be_reached_by_a_link(store: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(store)
    assert read_stored(tmp_path / "alias", "a.pdf", LIMIT) == b"a"


def test_a_path_gives_the_file_its_name_where_none_is_given(store: Path) -> None:
    policy = AttachmentPolicy(max_size=LIMIT, content_types=None, store=store)
    loaded = load(AttachmentInput("", "application/pdf", path="sub/b.pdf"), policy)
    assert (loaded.filename, loaded.content) == ("b.pdf", b"b")


def test_no_descriptor_is_left_open(store: Path) -> None:
    before = _descriptors()
    for path in ("a.pdf", "sub/deep/c.pdf", "out/secret.pdf", "sub/missing", "sub/in/c.pdf", "sub"):
        with suppress(AttachmentRejected):
            read_stored(store, path, LIMIT)
    assert _descriptors() == before


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


names = st.sampled_from(
    ["a.pdf", "sub", "deep", "in", "out", "up", "..", ".", "", "secret.pdf", "outside", "store", "\x00"]
)


@given(st.lists(names, max_size=6).map("/".join) | st.text(max_size=30))
@settings(suppress_health_check=UNTIMED, max_examples=300)
def test_no_path_whatever_reads_the_secret(store: Path, path: str) -> None:
    try:
        content = read_stored(store, path, LIMIT)
    except AttachmentRejected:
        return
    assert content != SECRET
    real = Path(os.path.realpath(store / path))
    assert real == store / path
    assert real.is_relative_to(store)


#: Makes ``flip`` a directory and a link to the directory with the secret, in turn, until its input ends.
SWAPPER = """
import os, select, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    os.rename("real", "flip"); os.rename("flip", "real")
    os.symlink("../outside", "flip"); os.unlink("flip")
"""


@pytest.fixture
def swapped(store: Path) -> Iterator[Path]:
    """The store while another process swaps ``flip`` as fast as possible."""
    (store / "real").mkdir()
    (store / "real" / "secret.pdf").write_bytes(b"harmless")
    command = [sys.executable, "-c", SWAPPER, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield store


def test_a_directory_swapped_for_a_link_meanwhile_gives_nothing_away(swapped: Path) -> None:
    seen: Counter[str] = Counter()
    end = time.monotonic() + 30
    while min(seen["read"], seen["attachment_path_escapes_root"]) < 20 and time.monotonic() < end:
        try:
            assert read_stored(swapped, "flip/secret.pdf", LIMIT) == b"harmless"
            seen["read"] += 1
        except AttachmentRejected as refused:
            seen[refused.code] += 1
    assert seen["read"]
    assert seen["attachment_path_escapes_root"]


def test_a_swap_between_two_steps_of_the_walk_changes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "sub" / "secret.pdf").write_bytes(b"harmless")
    real_open = os.open

    def open_then_swap(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = real_open(path, flags, mode, dir_fd=dir_fd)
        if path == "sub":
            (store / "sub").rename(store / "moved")
            (store / "sub").symlink_to(tmp_path / "outside")
        return descriptor

    monkeypatch.setattr(os, "open", open_then_swap)
    monkeypatch.setattr(os, "supports_dir_fd", {open_then_swap})
    assert read_stored(store, "sub/secret.pdf", LIMIT) == b"harmless"
    assert refusal(store, "sub/secret.pdf")[1] == "attachment_path_escapes_root"
