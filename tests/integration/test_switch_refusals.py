"""Where Django's own mail settings cannot mean the same here, the refusal says so in words, and shows no secret."""

from __future__ import annotations

import warnings
from typing import Any

import django
import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import lazystr

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.checks.mailers import check_mailers
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.declared import SMTP_OPTIONS
from prx_email_django.errors import AccountUnavailable
from prx_email_django.models import Account, AccountState
from prx_email_django.worker.token_keeper import connection_settings
from tests.integration.backend_messages import make_email
from tests.support.factories import MEMORY, NOW

pytestmark = pytest.mark.django_db

BACKEND = "prx_email_django.backends.OutboxEmailBackend"
SECRET = "pw-planted"
BY_MAILERS = django.VERSION >= (6, 1)


def configure(settings: Any, **options: Any) -> None:
    """The settings of a project that has changed one line."""
    settings.PRX_EMAIL = MEMORY
    if BY_MAILERS:
        settings.MAILERS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}
        return
    settings.EMAIL_BACKEND = BACKEND
    for option, value in options.items():
        setattr(settings, SMTP_OPTIONS[option], value)


def path(option: str) -> str:
    return f'MAILERS[\'default\']["OPTIONS"]["{option}"]' if BY_MAILERS else SMTP_OPTIONS[option]


def backend(**options: Any) -> OutboxEmailBackend:
    """The backend as Django makes it for ``send_mail`` and ``get_connection``."""
    if BY_MAILERS:
        configured = django.conf.settings.MAILERS["default"]["OPTIONS"]
        ignored = {"alias": "default", "_ignore_unknown_kwargs": set(options)}
        return OutboxEmailBackend(**{**configured, **options}, **ignored)
    return OutboxEmailBackend(**options)


WELL = {"host": "smtp.example.com", "use_tls": True, "username": "shop", "password": SECRET}


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({**WELL, "use_ssl": True}, "use_tls", "exclude each other"),
        ({**WELL, "use_tls": False}, "use_tls", "loopback only"),
        ({"host": "relay.example.com", "port": 25}, "use_tls", "CLEARTEXT_HOSTS"),
        ({**WELL, "host": ""}, "host", "names no server"),
        ({**WELL, "port": 70_000}, "port", "65535"),
        ({**WELL, "timeout": 0}, "timeout", "seconds above 0"),
        ({**WELL, "ssl_keyfile": "/etc/key.pem"}, "ssl_certfile", "certificate"),
    ],
)
def test_what_cannot_be_the_same_is_an_error_that_names_the_setting(
    options: dict[str, Any], option: str, words: str, settings: Any
) -> None:
    configure(settings, **options)
    (error,) = (found for found in checks.run_checks(tags=["prx_email"]) if found.id == "prx_email_django.E009")
    assert "switch.md" in error.hint
    assert error.msg.startswith(path(option)) and words in error.msg and SECRET not in error.msg
    with pytest.raises(AccountUnavailable, match="sends nothing") as raised:
        backend().send_messages([make_email()])
    assert SECRET not in str(raised.value)


def test_the_account_connects_as_the_settings_say(settings: Any) -> None:
    configure(settings, **WELL, timeout=7, ssl_certfile="/etc/cert.pem", port=2587)
    backend().send_messages([make_email()])
    account = Account.objects.get()
    used = connection_settings(account, AccountState(), token="", now=NOW)
    assert (used.host, used.port, used.security, used.user) == ("smtp.example.com", 2587, "starttls", "shop")
    assert (used.password, used.timeout, used.tls_files.cert_file) == (SECRET, 7, "/etc/cert.pem")


def test_a_user_without_a_password_is_no_login_as_in_django(settings: Any) -> None:
    configure(settings, host="localhost", port=25, username="shop")
    backend().send_messages([make_email()])
    assert (Account.objects.get().auth_method, Account.objects.get().user) == ("none", "")


@pytest.mark.parametrize("options", [{"username": "other"}, {"password": "other"}, {"host": "h"}, {"port": 1}])
def test_a_server_or_user_of_one_call_is_refused_and_never_ignored(options: dict[str, Any], settings: Any) -> None:
    configure(settings, **WELL)
    with pytest.raises(ImproperlyConfigured, match="outbox_account") as raised:
        backend(**options)
    assert next(iter(options)) in str(raised.value) and SECRET not in str(raised.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend(username="shop", password=SECRET).send_messages([make_email()]) == 1
        assert backend(username=None, password=None, fail_silently=True).send_messages([make_email()]) == 1


def test_lazy_values_are_read_as_django_reads_them(settings: Any) -> None:
    configure(settings, **{**WELL, "username": lazystr("shop"), "password": lazystr(SECRET)})
    backend().send_messages([make_email()])
    used = connection_settings(Account.objects.get(), AccountState(), token="", now=NOW)
    assert (used.user, used.password) == ("shop", SECRET)


def test_an_account_of_the_settings_comes_first(settings: Any) -> None:
    configure(settings, **WELL)
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": {"shop": "smtp+clear://localhost:1025"}, "DEFAULT_ACCOUNT": "shop"}
    if not BY_MAILERS:
        assert set(outbox_settings().accounts) == {"shop"}
        with pytest.raises(ImproperlyConfigured):
            backend(username="shop", password=SECRET)
    assert backend(**({} if BY_MAILERS else {"username": ""})).send_messages([make_email()]) == 1
    assert Account.objects.get().name == ("default" if BY_MAILERS else "shop")


def test_two_servers_of_one_mailer_are_an_error(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    settings.MAILERS = {"default": {"BACKEND": BACKEND, "OPTIONS": {**WELL, "account": "shop"}}}
    assert [found.id for found in check_mailers(None)] == ["prx_email_django.E035"]
    with pytest.raises(ImproperlyConfigured, match="remove one"):
        OutboxEmailBackend(account="shop", host="smtp.example.com")
