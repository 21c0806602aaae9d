"""A reference to a secret is resolved where the secret is, and its content never gets into an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prx_email_django.conf.references import SecretAbsent, absence, resolve


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" s3 cret \n", " s3 cret "),
        ("pässword\n".encode(), "pässword"),
        (b"two\n\n", "two\n"),
    ],
)
def test_one_line_end_is_no_part_of_the_secret(content: bytes, secret: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert resolve(f"file:{tmp_path}/secret") == secret


def test_a_variable_is_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_SECRET", "one")
    assert resolve("env:MAIL_SECRET") == "one"
    monkeypatch.setenv("MAIL_SECRET", "two")
    assert resolve("env:MAIL_SECRET") == "two"


@pytest.mark.parametrize(
    ("text", "secret"),
    [(r"\env:HOME", "env:HOME"), (r"\file:/x", "file:/x"), (r"\\env:X", r"\env:X"), (r"\x", r"\x"), ("env", "env")],
)
def test_a_backslash_makes_a_literal(text: str, secret: str) -> None:
    assert resolve(text) == secret


def test_an_absent_secret_names_variable_or_path_and_never_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    for name, content in {"empty": b"\n", "binary": b"top\xff\xfe", "nul": b"top\0", "large": b"top" * 40_000}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    targets = ["missing", "empty", "binary", "nul", "large", "pipe", "", "empty/below"]
    for text in [
        "env:NOT_SET",
        "env:EMPTY",
        "env:",
        "env: X",
        "file:relative",
        *(f"file:{tmp_path}/{t}" for t in targets),
    ]:
        with pytest.raises(SecretAbsent) as raised:
            resolve(text)
        assert str(raised.value).startswith(text), text
        assert "top" not in str(raised.value)
        assert absence(text) == str(raised.value)
