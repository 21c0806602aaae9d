"""Accounts as a person sets them up: what can never send is refused in words before it is saved."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from prx_email_django.models import Account

pytestmark = pytest.mark.django_db


def draft(**fields: Any) -> Account:
    """An account that is not saved yet."""
    values = {"name": "main", "email": "a@example.com", "host": "smtp.example.com", "user": "u", "password": "p"}
    return Account(**{**values, **fields})


def complaints(account: Account) -> dict[str, list[str]]:
    """Field -> what is wrong with it."""
    try:
        account.full_clean()
    except ValidationError as error:
        return dict(error.message_dict)
    return {}


TOKEN: dict[str, Any] = {"password": "", "oauth_provider": "google"}


@pytest.mark.parametrize("url", ["http://token.example.com/x", "https://u:p@token.example.com/", "ftp://localhost/"])
def test_a_token_address_that_the_attempt_refuses_is_refused_in_the_form(url: str) -> None:
    assert list(complaints(draft(**TOKEN, oauth_token_url=url))) == ["oauth_token_url"]


@pytest.mark.parametrize("url", ["", "https://token.example.com/x", "http://127.0.0.1:1/x"])
def test_a_token_address_that_can_be_asked_is_taken(url: str) -> None:
    assert complaints(draft(**TOKEN, oauth_token_url=url)) == {}


def test_a_function_that_the_settings_do_not_list_is_refused_in_the_form(settings: Any) -> None:
    custom = {"password": "", "oauth_provider": "custom"}
    assert list(complaints(draft(**custom, oauth_callable="os.system"))) == ["oauth_callable"]
    settings.PRX_EMAIL = {"OAUTH_CALLABLES": ["shop.mail.token"]}
    assert complaints(draft(**custom, oauth_callable="shop.mail.token")) == {}
