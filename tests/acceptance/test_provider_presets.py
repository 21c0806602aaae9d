"""From an empty project to a delivered message at each preset's provider, by two commands; and out of its trap."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from prx_email_django.models.presets import PRESETS
from tests.integration.test_outbox_authorize import authorize
from tests.support.authorization_server import AuthorizationServer
from tests.support.provider_doubles import BAD, DOUBLES, GOOD, ME, Double, resolving_to
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class Project:
    """A project with nothing but this app; counts the commands that its operator types."""

    def __init__(self) -> None:
        self.commands = 0

    def run(self, command: str, *arguments: str) -> tuple[bool, str]:
        """Run a command; return whether it ended well, and what it said on one line."""
        self.commands += 1
        out, is_well, error = StringIO(), True, ""
        try:
            call_command(command, *arguments, stdout=out, stderr=out)
        except (CommandError, SystemExit) as failure:
            is_well, error = False, str(failure)
        return is_well, re.sub(r"\s+", " ", f"{out.getvalue()} {error}")

    def set_up(self, preset: str, arguments: tuple[str, ...]) -> tuple[bool, str]:
        """Make the account, check it, and send oneself a message; stop at what fails."""
        is_well, said = self.run("outbox_account", "main", "--preset", preset, *arguments)
        return self.run("outbox_check", "main", "--send-to", ME) if is_well else (is_well, said)


@pytest.fixture(autouse=True)
def project_settings(settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSPORT": "smtp", "WAKE": ""}
    settings.DEFAULT_FROM_EMAIL = ME


def test_every_preset_has_a_double() -> None:
    assert {double.preset for double in DOUBLES} | {"outlook"} == set(PRESETS)


@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: double.preset)
def test_two_commands_lead_to_a_delivered_message_and_wrong_ways_are_explained(
    double: Double, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with double.start() as server, resolving_to(double.host, double.port, server.port):
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TLS_CA_FILE": server.ca_file or None}
        for wrong in double.wrong_ways:
            monkeypatch.setenv("MAIL_SECRET", wrong.secret)
            is_well, said = Project().set_up(double.preset, wrong.arguments)
            assert not is_well
            assert wrong.words in said
            assert wrong.secret not in said
        assert server.messages == []
        monkeypatch.setenv("MAIL_SECRET", GOOD)
        project = Project()
        is_well, said = project.set_up(double.preset, double.arguments)
        assert is_well, said
        assert [message.recipients for message in server.messages] == [(ME,)]
        assert project.commands == 2


def test_microsoft_365_refuses_the_password_and_takes_the_token(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = "smtp.office365.com", 587
    server = SmtpServer(tls="starttls", tokens={ME: "none"}, mechanisms=("LOGIN", "XOAUTH2"), certificate_for=(host,))
    server.login_refusal = (
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit "
        "https://aka.ms/smtp_auth_disabled for more information."
    )
    with AuthorizationServer("microsoft") as provider, server, resolving_to(host, port, server.port):
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TLS_CA_FILE": server.ca_file}
        provider.issued = lambda token: server.tokens.update({ME: token})
        provider.refresh_tokens.add(GOOD)
        monkeypatch.setenv("MAIL_SECRET", BAD)
        is_well, said = Project().set_up("outlook", ("--set", f"user={ME}", "--secret", "env:MAIL_SECRET"))
        assert not is_well
        assert "SMTP AUTH is switched off" in said
        fields = {"user": ME, "oauth_client_id": provider.client.client_id, "oauth_token_url": provider.token_url}
        monkeypatch.setenv("MAIL_SECRET", GOOD)
        monkeypatch.setenv("CLIENT_SECRET", provider.client.secret)
        arguments = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
        secrets = ("oauth_refresh_token=env:MAIL_SECRET", "oauth_client_secret=env:CLIENT_SECRET")
        arguments += [word for secret in secrets for word in ("--secret", secret)]
        is_well, said = Project().set_up("outlook", tuple(arguments))
        assert is_well, said
        assert [message.recipients for message in server.messages] == [(ME,)]


@pytest.mark.parametrize(
    ("preset", "kind", "secret"),
    [("outlook", "microsoft", ""), ("gmail", "google", ""), ("gmail", "google", "the-client-secret")],
)
def test_three_commands_lead_through_a_sign_in_to_a_delivered_message(
    preset: str, kind: str, secret: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is inactive between the first command and the second: nothing could log in with it."""
    host, port = PRESETS[preset].host, PRESETS[preset].port
    tls = "implicit" if port == 465 else "starttls"
    server = SmtpServer(tls=tls, tokens={ME: "none"}, mechanisms=("LOGIN", "XOAUTH2"), certificate_for=(host,))
    with AuthorizationServer(kind) as provider, server, resolving_to(host, port, server.port):
        settings.PRX_EMAIL = {
            **settings.PRX_EMAIL,
            "TLS_CA_FILE": server.ca_file,
            "OAUTH_SERVERS": provider.settings,
        }
        provider.client.secret = secret
        provider.issued = lambda token: server.tokens.update({ME: token})
        fields = {"user": ME, "oauth_client_id": provider.client.client_id, "oauth_token_url": provider.token_url}
        arguments = ["main", "--preset", preset]
        arguments += [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
        if secret:
            monkeypatch.setenv("CLIENT_SECRET", secret)
            arguments += ["--secret", "oauth_client_secret=env:CLIENT_SECRET"]
        project = Project()
        for _ in range(2):  # a container runs it at every start
            is_well, said = project.run("outbox_account", *arguments)
            assert is_well, said
            assert "inactive until somebody signs in: manage.py outbox_authorize main" in said
        assert "outbox_check main" in authorize("--no-browser", opened=provider.follow)
        is_well, said = project.run("outbox_account", *arguments)
        assert (is_well, said.strip()) == (True, "account “main”: nothing to change")
        is_well, said = project.run("outbox_check", "main", "--send-to", ME)
        assert is_well, said
    assert [message.recipients for message in server.messages] == [(ME,)]
