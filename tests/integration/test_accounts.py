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


TOKEN: dict[str, Any] = {
    "password": "",
    "oauth_provider": "google",
    "oauth_client_id": "app",
    "oauth_refresh_token": "r",
}


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
    application = {"oauth_client_id": "app", "oauth_client_secret": "s"}
    assert complaints(draft(**custom, **application, oauth_token_url="https://token.example.com/x")) == {}
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


#: Field, and a value with which no message could be sent.
UNUSABLE: list[tuple[str, dict[str, Any]]] = [
    *(("host", {"host": host}) for host in ("[::1]", "a..b", "*.example", "a,b", "http://a", "a:25", "127.1", "a\x01")),
    *(("user", {"user": user}) for user in ("ann\n", "a\x00nn", "ann\x01auth=x", "\x7f", "a\u2028b", "", "  ")),
    *(("password", {"password": secret}) for secret in ("ge\x00heim", "ge\ud800heim")),
    *(("display_name", {"display_name": name}) for name in ("Shop\r\nBcc: x", "Sh\x00op", "Sh\x1bop", "Shop\x85")),
    *(("oauth_token", {"password": "", "oauth_token": token}) for token in ("t\n", "t t", "t\x01", "tök")),
    ("name", {"name": "ma\x00in"}),
    ("oauth_client_id", {**TOKEN, "oauth_client_id": ""}),
    ("oauth_client_id", {**TOKEN, "oauth_client_id": "app\n"}),
    ("oauth_refresh_token", {**TOKEN, "oauth_refresh_token": ""}),
    ("oauth_refresh_token", {**TOKEN, "oauth_refresh_token": "", "oauth_client_secret": "s"}),
    ("oauth_client_id", {**TOKEN, "oauth_provider": "microsoft", "oauth_client_id": ""}),
    ("oauth_refresh_token", {**TOKEN, "oauth_provider": "microsoft", "oauth_refresh_token": ""}),
    (
        "oauth_tenant",
        {**TOKEN, "oauth_provider": "microsoft", "oauth_refresh_token": "", "oauth_client_secret": "s"},
    ),
    ("oauth_callable", {**TOKEN, "oauth_provider": "custom"}),
    ("oauth_client_id", {"password": "", "oauth_provider": "custom", "oauth_token_url": "https://x.example/"}),
]


@pytest.mark.parametrize(("field", "fields"), UNUSABLE)
def test_an_account_that_could_never_send_is_refused_before_it_is_saved(field: str, fields: dict[str, Any]) -> None:
    assert field in complaints(draft(**fields))
    values = {"user": "u", "host": "smtp.example.com", "password": "p", **fields, "name": fields.get("name", "main")}
    with pytest.raises(ValidationError) as refused:
        Account.objects.from_preset("gmail", **values)
    assert field in refused.value.message_dict or "__all__" in refused.value.message_dict
    assert not Account.objects.exists()


def test_a_host_that_the_operator_does_not_allow_is_refused_in_the_form(settings: Any) -> None:
    settings.PRX_EMAIL = {"ACCOUNT_HOSTS": ["*.example.com", "192.0.2.0/24"]}
    assert complaints(draft()) == {} == complaints(draft(host="192.0.2.1"))
    assert list(complaints(draft(host="127.0.0.1"))) == ["host"]
    custom = {**TOKEN, "oauth_provider": "custom", "oauth_token_url": "https://token.internal/"}
    assert complaints(draft(**custom)) == {}, "its address may lie in the network"
    settings.PRX_EMAIL = {"ACCOUNT_HOSTS": ["*.example.com"]}
    assert list(complaints(draft(**custom))) == ["oauth_token_url"]
    assert complaints(draft(**TOKEN)) == {}, "the account does not name Google's own address"


# Presets


def test_a_preset_needs_only_credentials() -> None:
    made = Account.objects.from_preset("gmail", name="one", user="ann@example.com", password="p")
    assert (made.host, made.email, made.auth_method) == ("smtp.gmail.com", "ann@example.com", "password")
    made = Account.objects.from_preset("yahoo", name="two", user="ann@example.com", oauth_token="t")
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "")
    fetched = {"oauth_client_id": "app", "oauth_refresh_token": "r"}
    made = Account.objects.from_preset("gmail", name="three", user="ann@example.com", **fetched)
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "google")
    secret = {"oauth_client_id": "app", "oauth_client_secret": "s", "oauth_tenant": "example.com"}
    made = Account.objects.from_preset("outlook", name="four", user="ann@example.com", **secret)
    assert (made.auth_method, made.oauth_provider) == ("xoauth2", "microsoft")
    server = {"oauth_provider": "custom", "oauth_token_url": "https://x.example/"}
    made = Account.objects.from_preset("fastmail", name="five", user="ann@example.com", **fetched, **server)
    assert made.oauth_provider == "custom"


@pytest.mark.parametrize(
    ("preset", "fields", "named"),
    [
        ("gmail", {}, "password"),
        ("gmail", {"password": ""}, "password"),
        ("gmail", {"password": "p", "oauth_token": "t"}, "oauth_token"),
        ("gmail", {"password": "p", "oauth_refresh_token": "r"}, "password"),
        ("gmail", {"oauth_client_id": "app", "oauth_client_secret": "s"}, "oauth_refresh_token"),
        ("gmail", {"oauth_refresh_token": "r"}, "oauth_client_id"),
        ("outlook", {"oauth_client_id": "app", "oauth_client_secret": "s"}, "oauth_tenant"),
        ("gmail", {"password": "p", "host": "a..b"}, "host"),
        ("gmail", {"password": "p", "port": 70_000}, "port"),
        ("gmail", {"password": "p", "rate_limits": "many"}, "rate_limits"),
        ("gmail", {"password": "p", "display_name": "Shop\n"}, "display_name"),
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
