"""An account's URL says what it says, and a mistake in it is named without the secret."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.conf.account_url import parse_account_url


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("smtps://h", {"host": "h", "port": 465, "security": "tls", "auth_method": "none"}),
        ("SMTP://h/", {"host": "h", "port": 587, "security": "starttls", "auth_method": "none"}),
        ("smtp+clear://[::1]:1025", {"host": "::1", "port": 1025, "security": "none", "auth_method": "none"}),
        (
            "smtp://ann%40x.org:env%3APW@h:25?email=a+b@x.org&rate_limits=30/minute,%20900/day&is_active=no",
            {
                "host": "h",
                "port": 25,
                "security": "starttls",
                "user": "ann@x.org",
                "password": "env:PW",
                "email": "a+b@x.org",
                "rate_limits": "30/minute, 900/day",
                "is_active": "no",
            },
        ),
        (
            "smtp://[fe80::1%25eth0]:25",
            {"host": "fe80::1%eth0", "port": 25, "security": "starttls", "auth_method": "none"},
        ),
        (
            "smtps://ann@h?oauth_provider=google",
            {"host": "h", "port": 465, "security": "tls", "user": "ann", "oauth_provider": "google"},
        ),
    ],
)
def test_each_part_is_a_field(url: str, fields: dict[str, Any]) -> None:
    assert parse_account_url(url) == fields


@given(user=st.text(min_size=1), password=st.text(min_size=1))
def test_any_user_and_password_survive_percent_encoding(user: str, password: str) -> None:
    try:
        url = f"smtps://{quote(user, safe='')}:{quote(password, safe='')}@h"
    except UnicodeEncodeError:
        return
    fields = parse_account_url(url)
    assert (fields["user"], fields["password"]) == (user, password)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begin with one of smtps://"),
        ("imaps://u:top-secret@h", "begin with one of smtps://"),
        ("smtps://u:top-secret@", "host"),
        ("smtps://u:top/secret@h", "percent-encoded"),
        ("smtps://u:top#secret@h", "percent-encoded"),
        ("smtps://u:top?secret@h", "percent-encoded"),
        ("smtps://u:top-secret@h:70000", "URL"),
        ("smtps://u:top-secret@h:0", "port from 1"),
        ("smtps://u:top-secret@h/top-secret", "nothing but a query"),
        ("smtps://u:top-secret%ff@h", "UTF-8"),
        ("smtps://u:top-secret@h?password=top-secret", "name password once"),
        ("smtps://u:top-secret@h?email=a&email=b", "name a field once"),
        ("smtps://u@h?password=a&top=1&top=2", "name a field once"),
        ("smtps://u:top-secret@h?top-secret", "query"),
    ],
)
def test_a_mistake_is_named_without_the_secret(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        parse_account_url(url)
    assert "top" not in str(raised.value)
