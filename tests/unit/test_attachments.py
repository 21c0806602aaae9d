"""The attachment policy: sizes, types, base64, file names."""

from __future__ import annotations

import base64
import dataclasses
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.compose.attachments import (
    AttachmentInput,
    AttachmentPolicy,
    clean_filename,
    load,
)
from prx_email_django.errors import AttachmentRejected, InvalidMessage, OutboxError
from prx_email_django.store.draft import DraftPart

POLICY = AttachmentPolicy(max_size=10, content_types=frozenset({"application/pdf", "text/plain"}))


def given_as(**values: Any) -> AttachmentInput:
    """A small PDF, given as bytes, with ``values`` in place of its defaults."""
    return AttachmentInput(**{"filename": "a.pdf", "content_type": "application/pdf", "content": b"x", **values})


def refusal(attachment: AttachmentInput, policy: AttachmentPolicy = POLICY) -> OutboxError:
    with pytest.raises((AttachmentRejected, InvalidMessage)) as refused:
        load(attachment, policy)
    assert refused.value.code in type(refused.value).codes
    return refused.value


@pytest.mark.parametrize("source", [{"content": b"0123456789"}, {"content": None, "base64": "MDEyMzQ1Njc4OQ=="}])
def test_an_attachment_of_exactly_the_limit_passes(source: dict[str, object]) -> None:
    assert load(given_as(**source), POLICY) == DraftPart("attachment", "a.pdf", "application/pdf", b"0123456789")


@pytest.mark.parametrize(
    "source",
    [
        {"content": b"0123456789a"},
        {"content": None, "base64": base64.b64encode(b"0123456789a").decode()},
        {"content": None, "base64": "!" * 10**6},  # checked by its length, before it is decoded
    ],
)
def test_one_byte_more_is_refused_in_the_documented_words(source: dict[str, object]) -> None:
    error = refusal(given_as(**source))
    assert (str(error), error.code) == ("attachment exceeds size limit", "attachment_too_large")


@pytest.mark.parametrize(
    "content_type", ["application/pdf", "Application/PDF", "text/plain; charset=utf-8", " text/plain "]
)
def test_types_are_compared_in_lower_case_without_parameters(content_type: str) -> None:
    assert load(given_as(content_type=content_type), POLICY).content_type == content_type.strip()


@pytest.mark.parametrize(
    "content_type",
    [
        "image/svg+xml",
        "",
        "pdf",
        "application/pdf2",
        "application/pdf\r\nBcc: x",
        "text/plain; \n",
        "text/plain; x=\x00",
    ],
)
def test_other_types_are_refused_in_the_documented_words(content_type: str) -> None:
    error = refusal(given_as(content_type=content_type))
    assert error.code == "attachment_type_not_allowed"
    assert str(error) == "attachment content type is not allowed"
    assert all(note.isprintable() for note in error.__notes__)


def test_a_refused_type_is_told_with_the_setting_that_refuses_it() -> None:
    error = refusal(given_as(content_type="Image/SVG+xml; charset=utf-8"))
    assert error.__notes__ == ['image/svg+xml is not in PRX_EMAIL["ATTACHMENT_CONTENT_TYPES"]']


def test_without_a_list_any_valid_type_passes() -> None:
    anything = dataclasses.replace(POLICY, content_types=None)
    assert load(given_as(content_type="application/vnd.ms-excel"), anything).content == b"x"
    for content_type in ("notamime", "multipart/mixed", "a/b\r\nc"):
        assert refusal(given_as(content_type=content_type), anything).code == "attachment_type_not_allowed"


@pytest.mark.parametrize(
    "values",
    [
        {"content": None},
        {"base64": "eA=="},
        {"path": "a.pdf"},
        {"content": None, "base64": "eA==", "path": "a.pdf"},
        {"content": "text"},
        {"content": None, "base64": b"eA=="},
        {"content": None, "path": 7},
    ],
)
def test_other_than_exactly_one_source_is_refused(values: dict[str, object]) -> None:
    assert refusal(given_as(**values)).code == "attachment_source"


def test_an_empty_attachment_is_accepted() -> None:
    assert load(given_as(content=b""), POLICY).content == b""
    assert load(given_as(content=None, base64=""), POLICY).content == b""
    assert load(given_as(content=bytearray(b"x")), POLICY).content == b"x"


@pytest.mark.parametrize(
    "text", ["eA", "eA=", "eA==\n", "e A==", "eA==eA==", "e=A=", "====", "eÄ==", "e-_=", "=", "eA==x"]
)
def test_base64_that_decoders_read_differently_is_refused(text: str) -> None:
    assert refusal(given_as(content=None, base64=text)).code == "attachment_invalid_base64"


@given(st.binary(max_size=10))
def test_base64_is_decoded_unchanged(content: bytes) -> None:
    assert load(given_as(content=None, base64=base64.b64encode(content).decode()), POLICY).content == content


def test_a_path_without_a_store_is_refused_in_the_documented_words() -> None:
    error = refusal(given_as(content=None, path="a.pdf"))
    assert (str(error), error.code) == ("attachment store not configured", "attachment_store_not_configured")


def test_contents_stay_out_of_repr_and_so_out_of_logs() -> None:
    loaded = load(given_as(content=b"secret"), POLICY)
    assert "secret" not in repr(given_as(content=b"secret", base64="secret")) + repr(loaded)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\report.pdf", "report.pdf"),
        (".htaccess", "htaccess"),
        ("...", "attachment"),
        ("", "attachment"),
        ("dir/", "attachment"),
        ("report.pdf. . ", "report.pdf"),
        ("rep\u202efdp.exe", "repfdp.exe"),
        ("a\x00b\x1b[31m.pdf", "ab[31m.pdf"),
        ("u\u0308.pdf", "ü.pdf"),
        ("x" * 200 + ".pdf", "x" * 146 + ".pdf"),
        ("漢" * 100 + ".pdf", "漢" * 48 + ".pdf"),
        ("x" * 200, "x" * 150),
        ("a." + "x" * 200, "a." + "x" * 148),
        (" a b.pdf", "a b.pdf"),
    ],
)
def test_file_names_are_valid_on_every_system(name: str, expected: str) -> None:
    assert clean_filename(name) == expected


@given(st.text(st.characters(), max_size=300))
def test_no_file_name_hides_or_escapes(name: str) -> None:
    cleaned = clean_filename(name)
    assert cleaned
    assert not set(cleaned) & {"/", "\\", "\x00", "\u202e"}
    assert not cleaned.startswith(".")
    assert len(cleaned.encode()) <= 150
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in cleaned)
    assert clean_filename(cleaned) == cleaned


@pytest.mark.parametrize("name", ["a\r\nBcc: x.pdf", "a\x00.pdf", "a\u2028.pdf", "\ud800.pdf"])
def test_control_characters_in_a_file_name_are_header_injection(name: str) -> None:
    assert refusal(given_as(filename=name)).code == "header_injection"


@pytest.mark.parametrize(
    ("inline_id", "code"),
    [("a\r\nb", "header_injection"), ("<logo>", "invalid_option"), ("a b", "invalid_option"), ("ü", "invalid_option")],
)
def test_an_inline_id_cannot_leave_its_header(inline_id: str, code: str) -> None:
    assert refusal(given_as(inline_id=inline_id)).code == code


def test_an_inline_id_is_kept() -> None:
    assert load(given_as(inline_id="logo@example.com"), POLICY).inline_id == "logo@example.com"
