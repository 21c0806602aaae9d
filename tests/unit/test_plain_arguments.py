"""A plain message is made into the same draft as any other, and whatever is wrong is refused in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prx_email_django.compose.message import MessageArguments, compose
from prx_email_django.compose.plain import is_plain, plain_draft
from prx_email_django.errors import InvalidMessage, OutboxError
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.store.draft import Draft


class Text(str):
    """A host's own string, as a template engine returns."""

    __slots__ = ()


ODD = [
    "",
    " ",
    "\n",
    "a\nb",
    "a\x00b",
    "\x85",
    "\u2028",
    "é",
    "\udc80",
    "x" * 16_384,
    "x" * 16_385,
    Text("a"),
    None,
    1,
    b"a",
]
ADDRESSES = [
    "ann@example.org",
    "Ann <ann@example.org>",
    "ANN@Example.ORG",
    "ann@exämple.org",
    "änn@example.org",
    "ann@example.org, bob@example.org",
    "ann@",
    "a.@example.org",
    f"{'a' * 52}@example.org",
    ["ann@example.org"],
    ("ann@example.org",),
]
TEXTS = st.sampled_from(ODD) | st.text(max_size=5)
RECIPIENTS = st.sampled_from([*ADDRESSES, *ODD])
MESSAGES = st.fixed_dictionaries(
    {"to": RECIPIENTS, "subject": TEXTS, "body_text": TEXTS},
    optional={
        "body_html": TEXTS,
        "from_email": RECIPIENTS,
        "cc": st.sampled_from([(), "", "bob@example.org"]),
        "tag": st.sampled_from(["", "news"]),
        "priority": st.sampled_from([0, 3, False]),
        "metadata": st.sampled_from([None, {"a": 1}]),
        "headers": st.sampled_from([None, {"X-A": "b"}]),
        "idempotency_key": st.sampled_from([None, "order-1"]),
        "is_sensitive": st.booleans(),
    },
)
USUAL = {"to": "ann@example.org", "subject": "Hello", "body_text": "Hi Ann."}
ACCOUNT = Account(id=7, name="main", email="shop@example.com", display_name="Shop")
LIMITED = Account(id=8, name="limited", email="shop@example.com", rate_limits="0 recipients/day")


def written(draft: Draft) -> dict[str, Any]:
    """The draft, with the columns that differ from their defaults."""
    defaults = {field.name: field.get_default() for field in OutboxMessage._meta.concrete_fields}
    fields = {name: value for name, value in draft.fields.items() if defaults[name] != value or name == "to"}
    return {name: getattr(draft, name) for name in Draft.__slots__ if name != "fields"} | {"fields": fields}


def outcome(make: Any) -> object:
    try:
        draft: Draft = make()
    except OutboxError as error:
        return error.code, str(error)
    return written(draft) | {"parts": list(draft.parts)}


@settings(max_examples=600, deadline=None)
@example(USUAL)
@example({**USUAL, "from_email": None})
@example({**USUAL, "subject": "x" * 16_385})
@example({**USUAL, "priority": False})
@example({**USUAL, "body_html": "a\x00b"})
@given(MESSAGES)
def test_both_paths_agree(arguments: dict[str, Any]) -> None:
    for account in (ACCOUNT, LIMITED):
        for largest in (0, 6):
            if is_plain(arguments):
                whole = outcome(
                    lambda a=account, n=largest: compose(
                        MessageArguments(**arguments), account=a, now=None, largest=n, version="v"
                    )
                )
                assert (
                    outcome(
                        lambda a=account, n=largest: plain_draft(arguments, account=a, now=None, largest=n, version="v")
                    )
                    == whole
                )


@pytest.mark.parametrize("more", [{}, {"account": "main"}, {"body_html": "<p>é</p>"}, {"from_email": "Ann <a@b.org>"}])
def test_a_usual_message_is_plain(more: dict[str, Any]) -> None:
    assert is_plain({**USUAL, **more})


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: value} for name in USUAL for value in (None, "", " ", Text("a@b.org"), "a\x00@b.org", 1)),
        {"body_html": None},
        {"from_email": Text("a@b.org")},
        {"tag": ""},
        {"now": None},
        {"unknown": 1},
    ],
)
def test_what_is_wrong_or_unusual_is_not_plain(wrong: dict[str, Any]) -> None:
    assert not is_plain({**USUAL, **wrong})
    assert not is_plain({name: value for name, value in USUAL.items() if name not in wrong}) or not wrong.keys() & USUAL


class Keyed(Mapping[str, Any]):
    """A mapping whose ``keys()`` is a list."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> Any:
        return list(self._values)


def test_any_mapping_may_be_plain() -> None:
    assert is_plain(Keyed(USUAL))
    assert not is_plain(Keyed({**USUAL, "unknown": 1}))


def test_a_default_sender_of_another_type_is_an_error_of_the_message() -> None:
    with override_settings(DEFAULT_FROM_EMAIL=["shop@example.org"]), pytest.raises(InvalidMessage, match="must be"):
        plain_draft(USUAL, account=Account(name="main"), now=None, largest=0, version="v")
