"""Validation of accounts: an account that can never send is refused in words before it is saved."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

import prx_email_django as prx
from prx_email_django.errors import AccountUnavailable
from prx_email_django.models import Account

pytestmark = pytest.mark.django_db


def draft(**fields: Any) -> Account:
    """An account that is not saved yet."""
    values = {"name": "main", "email": "a@example.com", "host": "smtp.example.com", "user": "u", "password": "p"}
    return Account(**{**values, **fields})


def complaints(account: Account) -> dict[str, list[str]]:
    """Field -> error."""
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


def test_a_custom_provider_without_a_function_or_address_is_refused_in_the_form() -> None:
    custom = {"password": "", "oauth_provider": "custom"}
    assert list(complaints(draft(**custom))) == ["oauth_callable"]
    assert complaints(draft(**custom, oauth_token_url="https://token.example.com/x")) == {}
    assert complaints(draft(**custom, oauth_token="t")) == {}


# The form


@pytest.mark.parametrize("email", ["", "ann@example.com", "größe@bücher.example", "o'neil+tag@example.com"])
def test_an_address_is_taken_as_the_sender(email: str) -> None:
    assert complaints(draft(email=email)) == {}


@pytest.mark.parametrize(
    "email", ["ann", "ann@", "Ann <ann@example.com>", "<ann@example.com>", "a@x.org, b@x.org", "a\nb"]
)
def test_a_sender_that_no_message_could_have_is_refused_in_the_form(email: str) -> None:
    assert list(complaints(draft(email=email))) == ["email"]


@pytest.mark.parametrize(
    "host", ["smtp example.com", "smtp.example.com\r\nX", "smtp.example.com\t", "smtp\u00a0x", "\x7f"]
)
def test_an_invalid_host_is_refused_in_the_form(host: str) -> None:
    assert list(complaints(draft(host=host))) == ["host"]


SECRET: list[dict[str, Any]] = [{}, {"password": "", "oauth_token": "t"}, TOKEN]


@pytest.mark.parametrize("secret", SECRET)
@pytest.mark.parametrize("host", ["mail.example.com", "10.0.0.1"])
def test_a_secret_in_clear_text_is_refused_in_the_form_as_by_the_attempt(
    host: str, secret: dict[str, Any], settings: Any
) -> None:
    settings.PRX_EMAIL = {"CLEARTEXT_HOSTS": ["mail.example.com", "10.0.0.0/8", "127.0.0.0/8", "localhost", "::1"]}
    assert list(complaints(draft(host=host, security="none", **secret))) == ["security"]
    relay = {"user": "", "password": "", "auth_method": "none"}
    assert complaints(draft(host=host, security="none", **relay)) == {}
    for loopback in ("127.0.0.1", "localhost", "::1"):
        assert complaints(draft(host=loopback, security="none", **secret)) == {}


# Presets


def test_a_preset_needs_only_credentials() -> None:
    made = Account.objects.from_preset("gmail", name="one", user="ann@example.com", password="p")
    assert (made.host, made.email, made.auth_method) == ("smtp.gmail.com", "ann@example.com", "password")
    made = Account.objects.from_preset("yahoo", name="two", user="ann@example.com", oauth_token="t")
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "")
    made = Account.objects.from_preset("gmail", name="three", user="ann@example.com", oauth_refresh_token="r")
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "google")
    secret = {"oauth_client_secret": "s", "oauth_tenant": "example.com"}
    made = Account.objects.from_preset("outlook", name="four", user="ann@example.com", **secret)
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "microsoft")
    server = {"oauth_provider": "custom", "oauth_token_url": "https://x.example/", "oauth_refresh_token": "r"}
    made = Account.objects.from_preset("fastmail", name="five", user="ann@example.com", **server)
    assert made.oauth_provider == "custom"


@pytest.mark.parametrize(
    ("preset", "fields", "named"),
    [
        ("gmail", {}, "password"),
        ("gmail", {"password": ""}, "password"),
        ("gmail", {"password": "p", "oauth_token": "t"}, "oauth_token"),
        ("gmail", {"password": "p", "oauth_refresh_token": "r"}, "password"),
        ("gmail", {"oauth_client_secret": "s"}, "oauth_refresh_token"),
        ("gmail", {"auth_method": "xoauth2"}, "oauth_token"),
        ("gmail", {"auth_method": "none"}, "auth_method"),
        ("outlook", {"oauth_token": "t", "auth_method": "password"}, "password"),
        ("yahoo", {"oauth_refresh_token": "r"}, "oauth_refresh_token"),
        ("fastmail", {"oauth_client_secret": "s"}, "oauth_client_secret"),
    ],
)
def test_a_preset_without_exactly_one_kind_of_credentials_is_refused_in_words(
    preset: str, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Account.objects.from_preset(preset, name="main", user="ann@example.com", **fields)
    assert named in refused.value.message_dict
    assert not Account.objects.exists()


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="fastmail"):
        Account.objects.from_preset("hotmail", name="main", user="ann@example.com", password="p")


# Which account


@pytest.mark.parametrize("call", [prx.enqueue, prx.send])
def test_an_account_that_is_not_saved_is_refused_in_words(call: Any) -> None:
    with pytest.raises(AccountUnavailable, match="“main” has not been saved") as refused:
        call(account=draft(), to="ann@example.org", subject="Hello", body_text="Hi.")
    assert refused.value.code == "account_not_found"
