"""Doubles of the presets' providers on loopback: each has its provider's port, TLS, login, words and trap.

``test_provider_presets.py`` sends through them under the provider's own host name, which ``resolving_to`` leads to the
double; its certificate is for that name.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.smtp_server import SmtpServer

ME = "shop@example.com"
#: The secret that the provider accepts, and the one that people try first.
GOOD, BAD = "the right secret", "the wrong secret"


@dataclass(frozen=True, kw_only=True)
class WrongWay:
    """Arguments of ``outbox_account`` that people try first, and words of the answer that leads them on."""

    arguments: tuple[str, ...]
    words: str
    secret: str = BAD


@dataclass(frozen=True, kw_only=True)
class Double:
    """One provider; ``arguments`` are those of ``outbox_account`` that work there."""

    preset: str
    host: str
    port: int
    arguments: tuple[str, ...] = ("--set", f"user={ME}", "--secret", "env:MAIL_SECRET")
    users: dict[str, str] = field(default_factory=lambda: {ME: GOOD})
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    login_refusal: str = "535 5.7.8 authentication failed"
    senders: frozenset[str] | None = None
    sender_refusal: str = ""
    wrong_ways: tuple[WrongWay, ...] = ()

    def start(self) -> SmtpServer:
        """Return the server, not yet running."""
        tls = {465: "implicit", 587: "starttls"}.get(self.port)
        server = SmtpServer(tls=tls, users=self.users, mechanisms=self.mechanisms, certificate_for=(self.host,))
        server.login_refusal, server.sender_refusal = self.login_refusal, self.sender_refusal
        server.senders = self.senders
        return server


def _login(user: str, *more: str) -> tuple[str, ...]:
    return "--set", f"user={user}", "--secret", "env:MAIL_SECRET", *more


def _email(address: str = ME) -> tuple[str, ...]:
    return "--set", f"email={address}"


_MAILBOX = (WrongWay(arguments=_login(ME), words="make an app"),)

DOUBLES = (
    Double(preset="local", host="localhost", port=1025, arguments=(), users={}),
    Double(
        preset="gmail",
        host="smtp.gmail.com",
        port=465,
        mechanisms=("LOGIN", "PLAIN", "XOAUTH2", "PLAIN-CLIENTTOKEN", "OAUTHBEARER"),
        login_refusal="535-5.7.8 Username and Password not accepted. For more information, go to\r\n"
        "535 5.7.8  https://support.google.com/mail/?p=BadCredentials a1-b2 - gsmtp",
        wrong_ways=(WrongWay(arguments=_login(ME), words="make an app password (needs two-step verification)"),),
    ),
    Double(
        preset="gmail-relay",
        host="smtp-relay.gmail.com",
        port=587,
        arguments=_email(),
        users={},
        senders=frozenset({ME}),
        sender_refusal="550 5.7.1 Invalid credentials for relay [192.0.2.1]. The IP address isn't registered.",
        wrong_ways=(WrongWay(arguments=_email("ann@elsewhere.example"), words="allow the address of this machine"),),
    ),
    Double(
        preset="yahoo",
        host="smtp.mail.yahoo.com",
        port=465,
        mechanisms=("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"),
        login_refusal="535 5.7.0 (#AUTH005) Too many bad auth attempts.",
        wrong_ways=_MAILBOX,
    ),
    Double(preset="fastmail", host="smtp.fastmail.com", port=465, wrong_ways=_MAILBOX),
    Double(
        preset="icloud",
        host="smtp.mail.me.com",
        port=587,
        arguments=_login("shop@icloud.com"),
        users={"shop@icloud.com": GOOD},
        mechanisms=("ATOKEN", "WSTOKEN", "PLAIN", "LOGIN"),
        login_refusal="535 5.7.8 Error: authentication failed: authentication failure",
        wrong_ways=(WrongWay(arguments=_login("shop@icloud.com"), words="app-specific password"),),
    ),
    Double(
        preset="zoho",
        host="smtp.zoho.eu",
        port=465,
        arguments=_login(ME, "--set", "region=eu"),
        login_refusal="535 Authentication Failed",
        wrong_ways=(WrongWay(arguments=_login(ME, "--set", "region=eu"), words="make an app password"),),
    ),
    Double(
        preset="ses",
        host="email-smtp.eu-central-1.amazonaws.com",
        port=587,
        arguments=_login("AKIAEXAMPLE", "--set", "region=eu-central-1", *_email()),
        users={"AKIAEXAMPLE": GOOD},
        login_refusal="535 Authentication Credentials Invalid",
        senders=frozenset({ME}),
        sender_refusal="554 Message rejected: Email address is not verified. The following identities failed the check",
        wrong_ways=(
            WrongWay(arguments=_login("AKIAEXAMPLE", *_email()), words="has a server for each region"),
            WrongWay(arguments=_login("AKIAEXAMPLE", "--set", "region=eu-central-1"), words="the user is no address"),
            WrongWay(
                arguments=_login("AKIAEXAMPLE", "--set", "region=eu-central-1", *_email()), words="not AWS access keys"
            ),
            WrongWay(
                arguments=_login("AKIAEXAMPLE", "--set", "region=eu-central-1", *_email("ann@example.com")),
                words="have the provider verify the address",
                secret=GOOD,
            ),
        ),
    ),
    Double(
        preset="sendgrid",
        host="smtp.sendgrid.net",
        port=587,
        arguments=("--secret", "env:MAIL_SECRET", *_email()),
        users={"apikey": GOOD},
        login_refusal="535 Authentication failed: Bad username / password",
        senders=frozenset({ME}),
        sender_refusal="550 The from address does not match a verified Sender Identity.",
        wrong_ways=(WrongWay(arguments=_login(ME), words="The user is the word apikey", secret=GOOD),),
    ),
    Double(
        preset="mailgun",
        host="smtp.eu.mailgun.org",
        port=465,
        arguments=_login("postmaster@mg.example.com", "--set", "region=eu"),
        users={"postmaster@mg.example.com": GOOD},
        login_refusal="535 5.7.0 Authentication failed",
        wrong_ways=(
            WrongWay(arguments=_login(ME, "--set", "region=eu"), words="Credentials belong to one domain", secret=GOOD),
        ),
    ),
    Double(
        preset="brevo",
        host="smtp-relay.brevo.com",
        port=587,
        arguments=_login("1a2b@smtp-brevo.com", *_email()),
        users={"1a2b@smtp-brevo.com": GOOD},
        mechanisms=("PLAIN", "LOGIN", "CRAM-MD5"),
        login_refusal="535 5.7.8 Authentication failed",
        wrong_ways=(
            WrongWay(arguments=_login("1a2b@smtp-brevo.com"), words="the login is no sender", secret=GOOD),
            WrongWay(arguments=_login("1a2b@smtp-brevo.com", *_email()), words="an SMTP key, not an API key"),
        ),
    ),
    Double(
        preset="postmark",
        host="smtp.postmarkapp.com",
        port=587,
        arguments=_login("PM-T-access-key", *_email()),
        users={"PM-T-access-key": GOOD},
        login_refusal="535 5.7.8 Error: authentication failed",
        wrong_ways=(
            WrongWay(
                arguments=("--secret", "env:MAIL_SECRET", *_email()), words="Give the access key of an SMTP token"
            ),
            WrongWay(arguments=_login("PM-T-access-key", *_email()), words="a secret key for the password"),
        ),
    ),
)


@contextmanager
def resolving_to(host: str, port: int, reached: int) -> Iterator[None]:
    """Lead one host and port to a port of loopback; other names but this machine's are unknown."""
    real = socket.getaddrinfo

    def resolve(name: Any, service: Any, *args: Any, **options: Any) -> Any:
        if (name, service) == (host, port):
            return real("127.0.0.1", reached, *args, **options)
        if name in ("127.0.0.1", "localhost") and (name, service) != (host, port):
            return real(name, service, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield
