"""A URL that is written where something else belongs may hold a password, and no error shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.errors import AccountUnavailable
from prx_email_django.models import Account
from tests.integration.face_rows import run
from tests.support.factories import MEMORY

pytestmark = pytest.mark.django_db

URL = "smtps://ann:swordfish@smtp.example.com"


def in_dict(**fields: object) -> dict[str, Any]:
    return {"ACCOUNTS": {"main": {"host": "smtp.example.com", "user": "ann", "password": "hunter2", **fields}}}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"DEFAULT_ACCOUNT": URL}, "must be the name of an account"),
        ({"ACCOUNTS": URL}, "must be a dict"),
        ({"ACCOUNTS": {URL: {}}}, "must have names as its keys"),
        ({"ACCOUNTS": {URL: URL}}, "must have names as its keys"),
        ({URL: True}, 'PRX_EMAIL["smtps://…"] is not a setting'),
        (in_dict(**{URL: True}), '["main"]["smtps://…"]: is not a field'),
        (in_dict(preset=URL), "unknown preset 'smtps://…'"),
        (in_dict(port=URL), '["port"]: has a value that it cannot have'),
        (in_dict(security=URL), "Values are tls, starttls, none."),
        (in_dict(rate_limits=URL), '["rate_limits"]: has a value that it cannot have'),
        (in_dict(host=URL), '["host"]: This must be the host'),
        (in_dict(oauth_token_expires_at=URL), '["oauth_token_expires_at"]: has a value that it cannot have'),
        ({"CLEARTEXT_HOSTS": [URL]}, "CLEARTEXT_HOSTS"),
        ({"MESSAGE_ID_DOMAIN": URL}, "MESSAGE_ID_DOMAIN"),
        ({"TRANSPORT": URL}, "TRANSPORT"),
    ],
)
def test_checks_and_errors_of_the_settings_do_not_show_it(wrong: dict[str, Any], words: str) -> None:
    with override_settings(PRX_EMAIL={**MEMORY, **wrong}):
        found = checks.run_checks(databases=["default"], include_deployment_checks=True)
        told = "\n".join(f"{message.obj} {message.msg} {message.hint}" for message in found)
        with pytest.raises((ImproperlyConfigured, AccountUnavailable)) as refused:
            prx.enqueue(account="main", to="a@example.com", subject="s", body_text="t")
    assert words in told
    assert "swordfish" not in told + str(refused.value)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: prx.enqueue(account=URL, to="a@example.com", subject="s", body_text="t"), "no account “smtps://…”"),
        (lambda: run("outbox_check", URL), "no account “smtps://…”"),
        (lambda: run("outbox_authorize", URL), "no account “smtps://…”"),
        (lambda: run("outbox_pause", URL, "--reason", "x"), "no account “smtps://…”"),
        (lambda: run("outbox_status", "--account", URL), "no account “smtps://…”"),
        (lambda: run("outbox_account", URL, "--preset", "local"), "name: This is a URL, not a name."),
        (lambda: run("outbox_account", "main", "--preset", URL), "unknown preset 'smtps://…'"),
        (lambda: run("outbox_account", "main", "--set", URL), "--set needs a field and a value"),
        (lambda: run("outbox_account", "main", "--set", f"{URL}?a=b"), "--set must name fields"),
        (lambda: run("outbox_account", "main", "--secret", URL), "--secret for password must be env:NAME"),
        (lambda: run("outbox_account", "main", "--set", f"host={URL}"), "host: This must be the host"),
        (lambda: run("outbox_account", "main", "--url", URL.replace("smtps", "smtpx")), "--url must begin with"),
    ],
)
def test_a_call_or_a_command_does_not_show_it(use: Callable[[], object], words: str) -> None:
    with pytest.raises((CommandError, AccountUnavailable)) as refused:
        use()
    assert words in str(refused.value)
    assert "swordfish" not in str(refused.value)
    assert not Account.objects.exists()
