"""Every trouble that the app words itself has advice: a person who reads it must know what to do next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

import prx_email_django
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.rules.hosts import cleartext_refusal
from prx_email_django.rules.outcomes import Phase, Trouble
from prx_email_django.status.advice import advice
from prx_email_django.transports.base import ConnectError
from prx_email_django.worker.connections import pause_reason
from prx_email_django.worker.one_message import CUT_SHORT, TOO_LATE

PACKAGE = Path(prx_email_django.__file__).parent
#: Calls whose first argument is the text of a trouble.
WORDED = {"connect_error", "_unable", "Loss", "MalformedReply", "TokenRefused", "misconfigured", "ConnectError"}


def literals(node: ast.expr, names: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The texts that an expression can be, with ``x`` for what is filled in; none where a caller passes the text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
        yield "".join(map(str, parts))
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body, names)
        yield from literals(node.orelse, names)
    elif isinstance(node, ast.Call):  # clean(…)
        for argument in node.args[:1]:
            yield from literals(argument, names)
    elif isinstance(node, ast.Name):
        for value in names.pop(node.id, []):
            yield from literals(value, names)


def worded() -> Iterator[str]:
    """Every text of a trouble in the source."""
    for path in [*PACKAGE.glob("transports/smtp/*.py"), *PACKAGE.glob("oauth/*.py"), *PACKAGE.glob("worker/*.py")]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            assigned: dict[str, list[ast.expr]] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    assigned.setdefault(node.targets[0].id, []).append(node.value)
            for node in ast.walk(function):
                name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
                if not isinstance(node, ast.Call) or name not in WORDED or not node.args:
                    continue
                if any(keyword.arg == "closed_by_us" for keyword in node.keywords):
                    continue
                yield from literals(node.args[0], dict(assigned))


TEXTS = sorted({*worded(), cleartext_refusal("mailpit")} - {"x", "x x", "x: x", "x: x x"})


def test_the_texts_are_found() -> None:
    """Else the test below would demand nothing."""
    assert len(TEXTS) > 25
    assert {"credentials go in clear text to loopback only", "the server does not offer STARTTLS"} <= set(TEXTS)


@pytest.mark.parametrize("text", [*TEXTS, TOO_LATE, CUT_SHORT])
def test_a_trouble_that_the_app_words_has_advice(text: str) -> None:
    assert advice(text)


@pytest.mark.parametrize("trouble", [trouble for trouble in Trouble if trouble])
def test_a_pause_has_advice_whatever_the_server_says(trouble: Trouble) -> None:
    error = ConnectError("550 no", phase=Phase.CONNECT, trouble=trouble, error_code="")
    assert advice(pause_reason(error))


@pytest.mark.parametrize("keys", [None, ["a passphrase of the project"]])
def test_lost_keys_have_advice(keys: list[str] | None) -> None:
    with override_settings(PRX_EMAIL={"CREDENTIAL_KEYS": keys}):
        assert "old key" in advice(str(DecryptionFailed("prx_email_django.account.password")))


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("TLS failed (TLS: WRONG_VERSION_NUMBER)", "STARTTLS"),
        ("TLS failed (TLS: unable to get local issuer certificate)", "TLS_CA_FILE"),
        ("TLS failed (TLS: Hostname mismatch, certificate is not valid for 'mail.example.com'.)", "contains"),
        ("TLS failed (TLS: certificate has expired)", "renew"),
        ("TLS failed (TLS: Missing Authority Key Identifier)", "3.13"),
        ("TLS failed (TLS: UNSUPPORTED_PROTOCOL)", "TLS 1.2"),
        ("TLS failed (TLS: TLSV1_ALERT_PROTOCOL_VERSION)", "TLS 1.2"),
        ("TLS failed (TLS: EE certificate key too weak)", "too weak"),
        ("TLS failed (TLS: CA certificate key too weak)", "too weak"),
        ("TLS failed (TLS: CA signature digest algorithm too weak)", "too weak"),
        ("TLS failed (TLS: unsuitable certificate purpose)", "another purpose"),
        ("TLS failed (TLS: Empty Subject Alternative Name extension)", "3.13"),
        ("TLS failed (TLS: Certificate public key has explicit ECC parameters)", "3.13"),
        ("TLS failed (TLS: invalid CA certificate)", "3.13"),
        ("TLS failed (TLS: unable to get issuer certificate)", "tls_ca_file"),
        ("TLS failed (TLS: UNSAFE_LEGACY_RENEGOTIATION_DISABLED)", "TLS 1.2"),
        ("no access token: TLS to the token server: self-signed certificate", "of the token server: set TLS_CA_FILE"),
        ("no access token: TLS_CA_FILE cannot be used: No such file or directory", "PEM"),
        ("quota used up (550 5.7.705 Access denied, tenant has exceeded threshold)", "Defender"),
        ("quota used up (550 5.1.8 Access denied, bad outbound sender)", "Defender"),
        ("TLS failed (clear text is not allowed to this host)", "CLEARTEXT_HOSTS"),
        ("TLS failed (credentials go in clear text to loopback only)", "“none”"),
        ("TLS failed (the server does not offer STARTTLS)", "465"),
        ("connection failed: smtp.exmaple.com:465: Name or service not known", "DNS"),
        ("connection failed: smtp.exmaple.com:465: Temporary failure in name resolution", "name server"),
        ("connection failed: mail.example.com:465: Network is unreachable", "IPv6"),
        ("connection failed: mail.example.com:465: Cannot assign requested address", "IPv6"),
        ("connection failed: mail.example.com:465: Connection refused", "No mail server answers"),
        ("connection failed: 127.0.0.1:1: Connection refused", "firewall"),
        ("connection failed (no answer in time from smtp.example.com:465)", "STARTTLS"),
        ("TLS failed (tls_key_file cannot be used: No such file or directory)", "PEM"),
        ("TLS failed (tls_key_file cannot be used: its key is encrypted)", "passphrase"),
        ("TLS failed (tls_cert_file cannot be used: the key is not that of the first certificate)", "comes first"),
        ("TLS failed (tls_cert_file cannot be used: its key or signature is too weak)", "client"),
        ("TLS failed (tls_cert_file cannot be used: certificate and key must be there, in PEM format)", "pkcs12"),
        ("TLS failed (tls_ca_file cannot be used: it holds no certificate in PEM format)", "-inform DER"),
        ("TLS failed (TLS: unable to get local issuer certificate)", "intermediate"),
        ("TLS failed (TLS: TLSV13_ALERT_CERTIFICATE_REQUIRED)", "tls_cert_file"),
        ("authentication refused (the server throttles logins: 454 4.7.0 later)", "slows down logins"),
        ("503 Bad sequence of commands - pipelined after end of DATA", "pipelining"),
        ("authentication refused (535 5.7.8 Authentication credentials invalid)", "app password"),
        ("authentication refused (the server offers no usable authentication mechanism (it offers x))", "TLS"),
        ("authentication refused (no access token: the token server refused: invalid_grant)", "sign in again"),
        ("no access token: the token server refused: temporarily_unavailable", "for the moment"),
        ("no access token: the token server answered HTTP 503", "for the moment"),
        ("no access token: the token server answered HTTP 404", "check the token address"),
        ("530 5.7.0 Authentication Required", "“none”"),
        ("530 5.7.0 Must issue a STARTTLS command first", "choose STARTTLS"),
        ("554 5.7.1 authentication required", "“none”"),
        ("authentication refused (smtp.gmail.com:465: 534 5.7.9 Please log in with your web browser)", "app password"),
        ("smtp.gmail.com:465: 535 5.7.8 Username and Password not accepted.", "two-step verification"),
        ("smtp.gmail.com:465: 535 5.7.8 Username and Password not accepted. (status 400, schemes Bearer)", "or token"),
        ("smtp.mail.yahoo.com:465: 535 5.7.0 (#AUTH005) Too many bad auth attempts.", "make an app password"),
        ("smtp.mail.me.com:587: 535 5.7.8 Error: authentication failed", "app-specific password"),
        ("smtp.zoho.eu:465: 535 Authentication Failed", "two-factor"),
        ("email-smtp.eu-central-1.amazonaws.com:587: 535 Authentication Credentials Invalid", "not AWS access keys"),
        ("smtp.sendgrid.net:587: 535 Authentication failed: Bad username / password", "the word apikey"),
        ("localhost:1025: login: 535 5.7.8 no", "Enter the user"),
        ("smtp.zoho.eu:465: login: 535 Authentication Failed", "two-factor"),
        ("mail.example.com:587: greeting: 554 5.7.1 your address is blocked", "refuses this machine"),
        ("mail.example.com:143: greeting: not an SMTP reply: the server answered with IMAP", "reading mail"),
        ("env:MAIL_PASSWORD: the variable is not set", "every process that sends"),
        ("file:/run/secrets/mail: No such file or directory", "put the file there"),
        (
            "smtp.office365.com:587: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is",
            "switched off",
        ),
        ("smtp.office365.com:587: 550 5.7.30 Basic authentication is not supported for Client Submission.", "OAuth"),
        ("smtp.office365.com:587: 535 5.7.139 user is locked by your organization's security defaults", "exempt"),
        ("smtp.office365.com:587: 535 5.7.139 the user's password has expired", "set a new one"),
        ("mail.example.com:587: 432 4.7.12 A password transition is needed", "set a new one"),
        ("no connection to mail.example.com:25 in 10 s", "port 587"),
        ("connection failed: mail.example.com:25: Network is unreachable", "port 587"),
        ("no connection to mail.example.com:2525 in 10 s", "firewall"),
        (
            "450 4.2.0 <ann@example.org>: Recipient address rejected: Greylisted, see http://postgrey.example",
            "by itself",
        ),
        ("451 4.7.1 Please try again later", "by itself"),
        ("450 4.3.2 too many connections from your host", "fewer connections"),
        ("unexpected RuntimeError", "report it"),
        ("connection failed (unexpected KeyError)", "report it"),
        ("this account cannot work (host: This must be the host’s name)", "form"),
    ],
)
def test_the_advice_fits_the_trouble(reason: str, word: str) -> None:
    assert word in advice(reason)


@pytest.mark.parametrize("reason", ["", "moving house", "550 5.7.1 mailbox busy", "paused by a person: holidays"])
def test_no_advice_is_made_up(reason: str) -> None:
    assert advice(reason) == ""
