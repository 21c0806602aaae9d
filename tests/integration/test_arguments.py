"""What callers hand over is taken as it was meant, or refused in words at the call; nothing else is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import OutboxMessage
from tests.support.factories import MEMORY, NOW, account, fresh, message

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY


# metadata


@pytest.mark.parametrize("value", [[1], [], "text", "", 5, 0, False, {"a": [1, {"b": None}]}])
def test_metadata_is_whatever_json_can_hold(value: object) -> None:
    assert fresh(message(account(), metadata=value)).metadata == value


def test_no_metadata_is_an_empty_dict() -> None:
    assert fresh(message(account(), metadata=None)).metadata == {}


def test_one_dict_filled_again_for_each_message_is_not_shared() -> None:
    owner = account()
    notes: dict[str, Any] = {}

    def letters() -> Iterator[dict[str, Any]]:
        for number in range(3):
            notes["order"] = {"number": number}
            yield {"to": "ann@example.org", "subject": "Hello", "body_text": "Hi.", "metadata": notes}

    rows = prx.enqueue_many(letters(), account=owner)
    assert [fresh(row).metadata["order"]["number"] for row in rows] == [0, 1, 2]


# time_budget


@pytest.mark.parametrize("budget", [None, 5, 2.5, "5s", timedelta(seconds=5)])
def test_a_time_budget_is_a_duration(budget: Any) -> None:
    row = message(account())
    assert prx.drain(now=NOW, time_budget=budget).sent == 1
    assert fresh(row).status == "sent"


@pytest.mark.parametrize("budget", [0, "0s"])
def test_an_empty_time_budget_starts_nothing(budget: Any) -> None:
    message(account())
    assert prx.drain(now=NOW, time_budget=budget).sent == 0


@pytest.mark.parametrize("budget", ["soon", -1, "-1s", timedelta(seconds=-1), float("nan"), [], True])
def test_a_time_budget_that_is_none_is_refused(budget: Any) -> None:
    message(account())
    with pytest.raises(InvalidMessage, match=r"^time_budget: ") as refused:
        prx.drain(time_budget=budget)
    assert refused.value.code == "invalid_option"
    assert OutboxMessage.objects.get().status == "pending"
