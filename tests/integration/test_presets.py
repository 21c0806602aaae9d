"""Presets: what a person must know there anyway is enough, and each provider's trap is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from prx_email_django.models import Account
from prx_email_django.models.presets import PRESETS, preset_fields
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

LOGIN: dict[str, Any] = {"user": "ann@example.com", "password": "p"}
#: Preset, what a person gives, and (host, port, security, auth_method, user, email).
MADE: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("local", {}, ("localhost", 1025, "none", "none", "", "")),
    ("local", LOGIN, ("localhost", 1025, "none", "password", "ann@example.com", "ann@example.com")),
    ("gmail", LOGIN, ("smtp.gmail.com", 465, "tls", "password", "ann@example.com", "ann@example.com")),
    ("gmail-relay", {"email": "a@example.com"}, ("smtp-relay.gmail.com", 587, "starttls", "none", "", "a@example.com")),
    ("gmail-relay", LOGIN, ("smtp-relay.gmail.com", 587, "starttls", "password", LOGIN["user"], LOGIN["user"])),
    ("outlook", LOGIN, ("smtp.office365.com", 587, "starttls", "password", LOGIN["user"], LOGIN["user"])),
    ("yahoo", LOGIN, ("smtp.mail.yahoo.com", 465, "tls", "password", LOGIN["user"], LOGIN["user"])),
    ("fastmail", LOGIN, ("smtp.fastmail.com", 465, "tls", "password", LOGIN["user"], LOGIN["user"])),
    ("icloud", LOGIN, ("smtp.mail.me.com", 587, "starttls", "password", LOGIN["user"], LOGIN["user"])),
    ("zoho", LOGIN, ("smtp.zoho.com", 465, "tls", "password", LOGIN["user"], LOGIN["user"])),
    ("zoho", {**LOGIN, "region": "EU"}, ("smtp.zoho.eu", 465, "tls", "password", LOGIN["user"], LOGIN["user"])),
    (
        "ses",
        {"user": "AKIA7", "password": "p", "email": "shop@example.com", "region": "eu-central-1"},
        ("email-smtp.eu-central-1.amazonaws.com", 587, "starttls", "password", "AKIA7", "shop@example.com"),
    ),
    ("sendgrid", {"password": "SG.k"}, ("smtp.sendgrid.net", 587, "starttls", "password", "apikey", "")),
    (
        "sendgrid",
        {"password": "SG.k", "region": "eu", "email": "a@example.com", "port": 465},
        ("smtp.eu.sendgrid.net", 465, "tls", "password", "apikey", "a@example.com"),
    ),
    ("mailgun", LOGIN, ("smtp.mailgun.org", 465, "tls", "password", LOGIN["user"], LOGIN["user"])),
    ("mailgun", {**LOGIN, "region": "eu"}, ("smtp.eu.mailgun.org", 465, "tls", "password", *[LOGIN["user"]] * 2)),
    ("brevo", LOGIN, ("smtp-relay.brevo.com", 587, "starttls", "password", LOGIN["user"], LOGIN["user"])),
    (
        "postmark",
        {"user": "token-1", "email": "a@example.com"},
        ("smtp.postmarkapp.com", 587, "starttls", "password", "token-1", "a@example.com"),
    ),
]


@pytest.mark.parametrize(("preset", "given", "made"), MADE)
def test_a_preset_makes_an_account_of_what_a_person_has(
    preset: str, given: dict[str, Any], made: tuple[Any, ...]
) -> None:
    account = Account.objects.from_preset(preset, name="main", **given)
    account.refresh_from_db()
    assert (account.host, account.port, account.security, account.auth_method, account.user, account.email) == made
    assert preset != "postmark" or account.password == "token-1"


def test_every_preset_is_tried_and_has_a_trap_and_a_page() -> None:
    assert {preset for preset, *_ in MADE} == set(PRESETS)
    assert [name for name, preset in PRESETS.items() if not preset.trap or not preset.page.startswith("https://")] == []


def test_published_limits_are_set_and_can_be_overruled() -> None:
    made = Account.objects.from_preset("outlook", name="a", **LOGIN)
    assert (made.rate_limits, made.max_connections) == ("30/minute, 10000 recipients/day", 3)
    assert preset_fields("yahoo", **LOGIN)["max_messages_per_connection"] == 20
    made = Account.objects.from_preset("outlook", name="b", rate_limits="5/minute", **LOGIN)
    assert made.rate_limits == "5/minute"


@pytest.mark.parametrize(
    ("preset", "given", "field", "words"),
    [
        ("ses", {"user": "AKIA7", "password": "p", "region": "eu-central-1"}, "email", "no address"),
        ("ses", {"user": "AKIA7", "password": "p", "email": "a@example.com"}, "region", "eu-central-1"),
        ("ses", {"user": "A", "password": "p", "email": "a@example.com", "region": "x.evil.org/"}, "region", "server"),
        ("brevo", {"user": "7a1@smtp-brevo.com", "password": "p"}, "email", "no sender"),
        ("postmark", {"password": "token-1", "email": "a@example.com"}, "user", "access key"),
        ("mailgun", {**LOGIN, "region": "us-east-1"}, "region", "choose one of eu"),
        ("gmail", {**LOGIN, "region": "eu"}, "region", "no regions"),
        ("local", {"host": "mailpit"}, "security", 'PRX_EMAIL["CLEARTEXT_HOSTS"] = ["mailpit"]'),
    ],
)
def test_the_trap_of_a_provider_is_refused_in_words(preset: str, given: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Account.objects.from_preset(preset, name="main", **given)
    assert list(refused.value.message_dict) == [field]
    assert words in refused.value.message_dict[field][0]
    assert "token-1" not in str(refused.value)
    assert not Account.objects.exists()


def test_the_admin_fills_the_form_in() -> None:
    client = rows.client_for("*")
    for name, preset in PRESETS.items():
        form = client.get(f"{rows.ACCOUNTS}add/?preset={name}").context["adminform"].form
        assert form["port"].value() == preset.port
        assert form["host"].value() == ("" if name == "ses" else preset.host)
    assert client.get(f"{rows.ACCOUNTS}add/?preset=nobody").status_code == 200
