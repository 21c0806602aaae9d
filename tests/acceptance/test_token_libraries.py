"""Service accounts (google-auth) and certificates (msal): mail is sent, keys rotate, a revocation is explained."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import prx_email_django as prx
from prx_email_django.contrib.google import service_account_token
from prx_email_django.contrib.microsoft import certificate_token
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.status.advice import advice
from tests.support.smtp_server import SmtpServer
from tests.support.token_server import AssertionServer

pytestmark = pytest.mark.django_db(transaction=True)

USER = "shop@example.com"
GOOGLE = "prx_email_django.contrib.google.service_account_token"
MICROSOFT = "prx_email_django.contrib.microsoft.certificate_token"


class Key:
    """An RSA key with a certificate of its own."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "outbox")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, self.private.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
        self.certificate = builder.sign(self.private, hashes.SHA256())
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        self.pem = self.private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain).decode()
        self.both = self.pem + self.certificate.public_bytes(encoding).decode()


@pytest.fixture(scope="module")
def keys() -> tuple[Key, Key]:
    return Key(), Key()


@pytest.fixture
def server(tmp_path: Path, settings: Any) -> Iterator[AssertionServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings.PRX_EMAIL = {"OAUTH_CALLABLES": [GOOGLE, MICROSOFT], "TLS_CA_FILE": str(tmp_path / "ca.pem")}
    with AssertionServer(authority) as running:
        yield running


def google_key(server: AssertionServer, key: Key) -> str:
    values = {"type": "service_account", "client_email": "outbox@project.iam.gserviceaccount.com"}
    return json.dumps({**values, "private_key": key.pem, "private_key_id": "1", "token_uri": f"{server.url}/token"})


def fields(server: AssertionServer, kind: str, key: Key) -> dict[str, Any]:
    common = {"user": USER, "email": USER, "auth_method": "xoauth2", "oauth_provider": "custom"}
    if kind == "google":
        return {**common, "oauth_callable": GOOGLE, "oauth_client_secret": google_key(server, key)}
    return {
        **common,
        "oauth_callable": MICROSOFT,
        "oauth_client_id": "the-client",
        "oauth_token_url": f"{server.url}/example.com/oauth2/v2.0/token",
        "oauth_client_secret": key.both,
    }


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_mail_is_sent_and_the_key_is_changed_without_a_restart(
    kind: str, server: AssertionServer, keys: tuple[Key, Key]
) -> None:
    old, new = keys
    server.key = old.private.public_key()
    with SmtpServer(tokens={USER: "unknown"}) as mail_server:
        server.issued = lambda token: mail_server.tokens.__setitem__(USER, token)
        place = {"name": "main", "host": "127.0.0.1", "port": mail_server.port, "security": "none"}
        account = Account.objects.create(**place, **fields(server, kind, old))
        message = prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="Hi Ann.")
        prx.drain()
        assert OutboxMessage.objects.get(pk=message.pk).status == "sent", account.pause_reason
        claims = server.claims[-1]
        if kind == "google":
            assert (claims["sub"], claims["scope"]) == (USER, "https://mail.google.com/")
        else:
            assert server.forms[-1]["scope"] == "https://outlook.office365.com/.default"
            assert claims["iss"] == "the-client"
        # The key is rotated: the old one is refused, the new one counts from the next request on.
        server.key = new.private.public_key()
        account.oauth_client_secret = fields(server, kind, new)["oauth_client_secret"]
        account.save()
        message = prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="Hi Ann.")
        prx.drain()
        assert OutboxMessage.objects.get(pk=message.pk).status == "sent", account.pause_reason
        assert len(server.claims) == 2


@pytest.mark.parametrize("kind", ["google", "microsoft"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"error": "invalid_grant", "error_description": "secret text"}, "sign in again"),
        ({"error": "unauthorized_client", "error_description": "AADSTS65001: consent"}, "Consent"),
        ({"error": "invalid_client", "error_description": "AADSTS7000222: expired"}, "has expired"),
    ],
)
def test_a_revocation_pauses_the_account_and_says_what_to_do(
    kind: str, error: dict[str, str], words: str, server: AssertionServer, keys: tuple[Key, Key]
) -> None:
    server.error = error
    account = Account.objects.create(
        name="main", host="127.0.0.1", port=9, security="none", **fields(server, kind, keys[0])
    )
    prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="Hi Ann.")
    prx.drain()
    assert account.pause_code == "token"
    assert error["error"] in account.pause_reason
    assert "secret text" not in account.pause_reason
    if kind == "microsoft" or "AADSTS" not in error["error_description"]:
        assert words.lower() in advice(account.pause_reason).lower()
    assert OutboxMessage.objects.get().attempts == 0


@pytest.mark.parametrize("kind", ["google", "microsoft"])
@pytest.mark.parametrize("secret", ["", "{}", "not a key", "[1]"])
def test_a_key_of_no_use_is_refused_without_showing_it(
    kind: str, secret: str, server: AssertionServer, keys: tuple[Key, Key]
) -> None:
    function = service_account_token if kind == "google" else certificate_token
    account = Account(**{**fields(server, kind, keys[0]), "oauth_client_secret": secret})
    with pytest.raises(TokenRefused) as caught:
        function(account)
    assert caught.value.permanent
    assert caught.value.code == "configuration"
    assert advice(str(caught.value))
    assert server.forms == []


@pytest.mark.parametrize("kind", ["google", "microsoft"])
def test_a_library_goes_to_allowed_hosts_only(
    kind: str, server: AssertionServer, keys: tuple[Key, Key], settings: Any
) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "ACCOUNT_HOSTS": ["*.example.com"]}
    function = service_account_token if kind == "google" else certificate_token
    with pytest.raises(TokenRefused, match="ACCOUNT_HOSTS"):
        function(Account(**fields(server, kind, keys[0])))
    assert server.forms == []


def test_the_token_ends_when_the_server_says(server: AssertionServer, keys: tuple[Key, Key]) -> None:
    server.key = keys[0].private.public_key()
    for kind, function in (("google", service_account_token), ("microsoft", certificate_token)):
        token, ends_at = function(Account(**fields(server, kind, keys[0])))
        assert token.startswith("access-")
        assert ends_at is not None
        assert abs(ends_at.timestamp() - time.time() - 3600) < 60
    assert jwt.get_unverified_header(server.forms[0]["assertion"])["alg"] == "RS256"
