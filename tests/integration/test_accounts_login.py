"""Fields of the login: mechanism, authorities and client certificate."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from prx_email_django.models import Account, AccountState
from prx_email_django.models.account import CREDENTIAL_FIELDS

pytestmark = pytest.mark.django_db

PASSWORD = {"user": "ann", "password": "s"}
TOKEN = {"user": "ann", "oauth_token": "t"}


def account(**fields: Any) -> Account:
    return Account(**{"name": "main", "email": "a@example.org", "host": "mail.example.org", **fields})


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({**PASSWORD, "auth_mechanism": "auto"}, True),
        ({**PASSWORD, "auth_mechanism": "plain"}, True),
        ({**PASSWORD, "auth_mechanism": "login"}, True),
        ({**PASSWORD, "auth_mechanism": "cram-md5"}, True),
        ({**PASSWORD, "auth_mechanism": "xoauth2"}, False),
        ({**PASSWORD, "auth_mechanism": "scram-sha-256"}, False),
        ({**PASSWORD, "auth_mechanism": ""}, False),
        ({**TOKEN, "auth_mechanism": "auto"}, True),
        ({**TOKEN, "auth_mechanism": "xoauth2"}, True),
        ({**TOKEN, "auth_mechanism": "oauthbearer"}, True),
        ({**TOKEN, "auth_mechanism": "plain"}, False),
        ({"auth_method": "none", "auth_mechanism": "auto"}, True),
        ({"auth_method": "none", "auth_mechanism": "plain"}, False),
    ],
)
def test_mechanism_fits_the_credentials_in_form_and_database(fields: dict[str, Any], *, fits: bool) -> None:
    if fits:
        account(**fields).full_clean()
        account(**fields).save()
        return
    with pytest.raises(ValidationError) as invalid:
        account(**fields).full_clean()
    assert "auth_mechanism" in invalid.value.message_dict
    with pytest.raises(IntegrityError, match="account_mechanism_fits_authentication"), transaction.atomic():
        account(**fields).save()


def test_key_without_certificate_is_refused_in_form_and_database() -> None:
    fields = {**PASSWORD, "tls_key_file": "/etc/key.pem"}
    with pytest.raises(ValidationError) as invalid:
        account(**fields).full_clean()
    assert "tls_cert_file" in invalid.value.message_dict
    with pytest.raises(IntegrityError, match="account_client_key_has_certificate"), transaction.atomic():
        account(**fields).save()
    account(**fields, tls_cert_file="/etc/cert.pem").full_clean()


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert_file"])
def test_path_with_a_control_character_is_refused(name: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        account(**PASSWORD, **{name: "/etc/a\nb"}).full_clean()
    assert name in invalid.value.message_dict


@pytest.mark.parametrize("name", ["auth_mechanism", "tls_ca_file", "tls_cert_file", "tls_key_file"])
def test_a_corrected_login_ends_a_workers_pause(name: str) -> None:
    assert name in CREDENTIAL_FIELDS
    saved = account(**PASSWORD, tls_cert_file="/etc/cert.pem")
    saved.save()
    AccountState.objects.create(account=saved, paused_by="worker", pause_reason="TLS failed", pause_code="tls")
    setattr(saved, name, "login" if name == "auth_mechanism" else "/etc/other.pem")
    saved.save()
    assert AccountState.objects.get().pause_reason == ""
