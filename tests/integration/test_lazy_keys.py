"""A message is named by its key, as text, as the row, in a list, and lazily, in every function that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject, lazy, lazystr

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage, ReplyRejected, RetryRejected
from prx_email_django.models import OutboxMessage
from tests.support.factories import MEMORY, account, message

pytestmark = pytest.mark.django_db

ONE: dict[str, Callable[[OutboxMessage], Any]] = {
    "key": lambda row: row.pk,
    "text": lambda row: str(row.pk),
    "row": lambda row: row,
    "lazy object of the key": lambda row: SimpleLazyObject(lambda: row.pk),
    "lazy object of the row": lambda row: SimpleLazyObject(lambda: row),
    "lazy key": lambda row: lazy(lambda: row.pk, int)(),
    "lazy text": lambda row: lazystr(str(row.pk)),
}
MANY: dict[str, Callable[[OutboxMessage], Any]] = {
    "queryset": lambda row: OutboxMessage.objects.filter(pk=row.pk),
    "lazy queryset": lambda row: SimpleLazyObject(lambda: OutboxMessage.objects.filter(pk=row.pk)),
    "lazy list": lambda row: SimpleLazyObject(lambda: [row.pk, row]),
    **{f"list of {name}": lambda row, form=form: (each for each in [form(row)]) for name, form in ONE.items()},  # type: ignore[misc]
}


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY


@pytest.mark.parametrize("form", ONE | MANY)
def test_operations_on_many(form: str) -> None:
    row = message(account(), now=None)
    named = (ONE | MANY)[form]
    assert prx.cancel_outbox(named(row)).changed == 1
    assert prx.confirm_outbox(named(row)).refused == {"not_unknown": 1}
    assert prx.dismiss_outbox(named(row)).changed == 1
    assert prx.requeue_outbox(named(row)).changed == 1


@pytest.mark.parametrize("form", ONE)
def test_operations_on_one(form: str) -> None:
    row = message(account(), now=None)
    assert prx.retry_outbox(ONE[form](row)).outbox_id == row.pk
    assert prx.resend_outbox(ONE[form](row)).subject == row.subject
    assert prx.copy_outbox(ONE[form](row), to="me@example.org").to == ["me@example.org"]


@pytest.mark.parametrize("wrong", ["abc", None, [], "", 10**30, 4.5, lazystr("abc")])
def test_what_is_no_key_is_no_message(wrong: Any) -> None:
    for operation in (prx.retry_outbox, prx.resend_outbox):
        with pytest.raises(RetryRejected) as refused:
            operation(wrong)
        assert refused.value.code == "not_found"


def test_the_key_of_a_second_sending_is_checked_as_that_of_the_first() -> None:
    row = message(account(), now=None)
    again = [prx.resend_outbox(row.pk, idempotency_key=key) for key in ("order-7", lazystr("order-7"))]  # type: ignore[arg-type]
    assert again[0] == again[1]
    with pytest.raises(InvalidMessage) as refused:
        prx.copy_outbox(row.pk, to="me@example.org", idempotency_key="")
    assert refused.value.code == "invalid_option"


@pytest.mark.parametrize("parent", [None, 7, lazystr("<1@x.org>")])
def test_the_parent_of_a_reply_is_text(parent: Any) -> None:
    with pytest.raises(ReplyRejected) as refused:
        prx.reply(account=account(), in_reply_to_message_id=parent, body_text="yes")
    assert refused.value.code == "parent_not_found"
