"""A project that sends through Django's SMTP backend changes one line, and the same mail arrives."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from tests.support.smtp_server import Received, SmtpServer
from tests.support.switch_project import SMTP, SwitchProject

HAS_MAILERS = django.VERSION >= (6, 1)
USER, PASSWORD = "shop@example.com", "pass: %word/"
#: What differs between two sendings of one message in any case.
VARYING = ("message-id", "date")


@pytest.fixture(params=["clear", "starttls", "implicit"])
def server(request: Any) -> Iterator[SmtpServer]:
    tls = None if request.param == "clear" else request.param
    with SmtpServer(tls=tls, users={} if tls is None else {USER: PASSWORD}) as running:
        yield running


def by_email_settings(server: SmtpServer) -> list[str]:
    login = [f"EMAIL_HOST_USER = {USER!r}", f"EMAIL_HOST_PASSWORD = {PASSWORD!r}"] if server.users else []
    tls = {"starttls": ["EMAIL_USE_TLS = True"], "implicit": ["EMAIL_USE_SSL = True"], None: []}[server.tls]
    return [f'EMAIL_BACKEND = "{SMTP}"', f"EMAIL_PORT = {server.port}", "EMAIL_TIMEOUT = 30", *login, *tls]


def by_mailers(server: SmtpServer) -> list[str]:
    options: dict[str, Any] = {"host": "localhost", "port": server.port, "timeout": 30}
    if server.users:
        options |= {"username": USER, "password": PASSWORD}
    if server.tls is not None:
        options["use_tls" if server.tls == "starttls" else "use_ssl"] = True
    return [f'MAILERS = {{"default": {{"BACKEND": "{SMTP}", "OPTIONS": {options!r}}}}}']


def shape(message: email.message.Message) -> Any:
    """Header fields and content of a part, without what varies: boundaries, ids and transfer encodings."""
    fields = sorted(
        (name.lower(), " ".join(str(value).split()))
        for name, value in message.items()
        if name.lower() not in (*VARYING, "content-type", "content-transfer-encoding", "mime-version")
    )
    if message.is_multipart():
        return message.get_content_type(), fields, [shape(part) for part in message.iter_parts()]
    content = message.get_payload(decode=True) or b""
    return message.get_content_type(), fields, content.replace(b"\r\n", b"\n").rstrip(b"\n")


def delivered(messages: list[Received]) -> list[Any]:
    return sorted(
        (
            message.sender,
            sorted(set(message.recipients)),
            repr(shape(email.message_from_bytes(message.data, policy=email.policy.default))),
        )
        for message in messages
    )


@pytest.mark.parametrize("settings_of", [by_email_settings, *([by_mailers] if HAS_MAILERS else [])])
def test_the_same_mail_arrives_after_one_line_was_changed(server: SmtpServer, settings_of: Any, tmp_path: Path) -> None:
    strict = settings_of is by_mailers or not HAS_MAILERS
    project = SwitchProject(tmp_path / "project", settings_of(server), ca_file=server.ca_file, strict=strict)
    before = project.send()
    expected = list(server.messages)
    assert len(expected) == sum(told == "sent 1" for told in before.values()) > 10

    project.switch()
    project.manage("migrate", "--verbosity", "0")
    project.manage("check", "--database", "default", "--fail-level", "ERROR")
    assert project.send() == before
    assert len(server.messages) == len(expected), "nothing is sent before the drain"
    project.manage("flush_outbox", "--no-progress")
    assert delivered(server.messages[len(expected) :]) == delivered(expected)
    assert project.send(ROW) == ["default" if settings_of is by_mailers else "django", "settings", True]


ROW = """
import django, json
django.setup()
from prx_email_django.models import Account
from django.db import connection
account = Account.objects.get()
stored = connection.cursor().execute("SELECT password FROM prx_email_django_account").fetchone()[0]
print(json.dumps([account.name, account.source, stored == "" or stored.startswith("settings:")]))
"""
