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


def test_what_django_itself_sends_is_the_same(tmp_path: Path) -> None:
    """Mail of users, admins and managers, a connection that is passed by hand, and subclasses of Django's messages."""
    with SmtpServer() as server:
        settings_of = by_mailers if HAS_MAILERS else by_email_settings
        urls = "from django.urls import include, path; urlpatterns = [path('', include('django.contrib.auth.urls'))]"
        project = SwitchProject(tmp_path / "project", [*settings_of(server), 'ROOT_URLCONF = "auth_urls"', *PEOPLE])
        (project.folder / "auth_urls.py").write_text(urls)
        project.manage("migrate", "--verbosity", "0")
        before = project.send(DJANGO_SENDS)
        expected = list(server.messages)
        assert len(expected) == 11

        project.switch()
        project.manage("migrate", "--verbosity", "0")
        assert project.send(DJANGO_SENDS) == before
        project.manage("flush_outbox", "--no-progress")
        assert delivered(server.messages[len(expected) :]) == delivered(expected)


def person(address: str) -> str | tuple[str, str]:
    """An entry of ADMINS as this Django wants it."""
    return address if django.VERSION >= (6, 0) else ("Ann", address)


PEOPLE = (
    f"ADMINS = [{person('admin@example.com')!r}]",
    f"MANAGERS = [{person('manager@example.com')!r}]",
    'SERVER_EMAIL = "root@example.com"',
    'EMAIL_SUBJECT_PREFIX = "[shop] "',
    'DEFAULT_FROM_EMAIL = "The shop <shop@example.com>"',
)
DJANGO_SENDS = """
import django, json, logging
django.setup()
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.log import AdminEmailHandler

class Signed(EmailMultiAlternatives):
    def message(self, **options):
        message = super().message(**options)
        message["X-Signed"] = "yes"
        return message

class Elsewhere(EmailMessage):
    content_subtype = "html"
    encoding = "iso-8859-1"
    def recipients(self):
        return ["elsewhere@example.com"]
    def send(self, **options):
        self.subject = "changed"
        return super().send(**options)

class Token:
    def make_token(self, user):
        return "token"

class Report(AdminEmailHandler):
    def emit(self, record):
        self.send_mail("ERROR", "text", html_message="<p>text</p>")

def one(subject, **fields):
    return EmailMessage(subject, "text", None, ["ann@example.com"], **fields)

connection = mail.mailers["default"] if hasattr(mail, "mailers") else mail.get_connection()
User.objects.all().delete()
User.objects.create_user("ann", "ann@example.com", "password", pk=1)
form = PasswordResetForm({"email": "ann@example.com"})
assert form.is_valid()
form.save(domain_override="shop.example.com", token_generator=Token())
logging.getLogger("shop").addHandler(Report())
logging.getLogger("shop").error("broken")
with connection as opened:
    by_hand = opened.send_messages([one("1"), one("2", bcc=["b@example.com"]), EmailMessage("none", "text")])
print(json.dumps([
    mail.send_mass_mail([("3", "t", None, ["a@example.com"]), ("4", "t", None, ["b@example.com", "c@example.com"])]),
    mail.send_mail("5", "text", "ann@example.com", ["bo@example.com"], html_message="<b>text</b>"),
    mail.mail_admins("6", "text", html_message="<p>text</p>"),
    mail.mail_managers("7", "text"),
    Signed("8", "text", None, ["ann@example.com"]).send(),
    Elsewhere("9", "h\u00e9", None, ["ann@example.com"]).send(),
    by_hand,
]))
"""
ROW = """
import django, json
django.setup()
from prx_email_django.models import Account
from django.db import connection
account = Account.objects.get()
stored = connection.cursor().execute("SELECT password FROM prx_email_django_account").fetchone()[0]
print(json.dumps([account.name, account.source, stored == "" or stored.startswith("settings:")]))
"""
