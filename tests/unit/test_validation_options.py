"""Options of a message: what a worker could not make sense of later is refused now, by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.compose.validation import check_options
from prx_email_django.errors import InvalidMessage

NOW = datetime(2026, 11, 24, tzinfo=UTC)
NAIVE = datetime(2026, 11, 24)  # noqa: DTZ001 - the naive datetime is the point
CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("now", NAIVE),
        ("now", "2026-11-24"),
        ("send_at", NAIVE),
        ("expires_at", NAIVE),
        ("expires_at", NOW.date()),
        ("priority", 11),
        ("priority", -11),
        ("priority", True),
        ("priority", 1.0),
        ("priority", "1"),
        ("priority", None),
        ("on_unknown", "explode"),
        ("on_unknown", ""),
        ("tag", "x" * 101),
        ("tag", "a\x00"),
        ("tag", "\ud800"),
        ("tag", None),
        ("idempotency_key", ""),
        ("idempotency_key", "x" * 256),
        ("idempotency_key", 7),
        ("idempotency_key", "a\nb"),
        ("metadata", {"a": object()}),
        ("metadata", {"a": float("nan")}),
        ("metadata", {"a": "\x00"}),
        ("metadata", {"\x00": "a"}),
        ("metadata", {"a": "\\\x00"}),
        ("metadata", {"a": "\ud800"}),
        ("metadata", {("a", "b"): 1}),
        ("metadata", {"a": {1, 2}}),
        ("metadata", CIRCLE),
        ("metadata", json.loads("[" * 31 + "]" * 31)),
    ],
)
def test_an_impossible_option_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(InvalidMessage) as refused:
        check_options(**{option: value})  # type: ignore[arg-type]
    assert refused.value.code == "invalid_option"
    assert str(refused.value).startswith(f"{option} must ")


def test_a_message_cannot_expire_before_it_is_due() -> None:
    with pytest.raises(InvalidMessage) as refused:
        check_options(send_at=NOW, expires_at=NOW - timedelta(seconds=1))
    assert refused.value.code == "invalid_option"
    check_options(send_at=NOW, expires_at=NOW)


def test_everything_that_is_allowed_passes() -> None:
    check_options()
    check_options(
        now=NOW,
        send_at=NOW,
        expires_at=NOW + timedelta(days=1),
        priority=-10,
        on_unknown="hold",
        tag="x" * 100,
        metadata={
            "order": 7,
            "note": "größer \\u0000 \n",
            "list": [None, True, 1.5],
            "deep": json.loads("[" * 29 + "]" * 29),
        },
        idempotency_key="order-Abc",
    )
    check_options(priority=10, on_unknown="retry", idempotency_key="x" * 255, metadata=[])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.just("\\u0000"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_metadata_that_passes_fits_every_database(value: object) -> None:
    try:
        check_options(metadata=value)
    except InvalidMessage:
        return
    text = json.dumps(value, allow_nan=False)
    assert "\x00" not in str(_strings(json.loads(text)))
    assert "\\x00" not in repr(_strings(json.loads(text))).replace("\\\\", "")
    text.encode()


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for inner in value.values() for text in _strings(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in _strings(inner)]
    return [value] if isinstance(value, str) else []
