"""Every function of Django that sends mail uses the outbox, without a warning, by the settings of each version."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import django
import pytest
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.test import override_settings
from django.utils.log import AdminEmailHandler

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import Account, OutboxMessage
from tests.integration.backend_messages import make_email

pytestmark = pytest.mark.django_db

PATH = "prx_email_django.backends.OutboxEmailBackend"
HAS_MAILERS = hasattr(mail, "mailers")


@pytest.fixture(autouse=True)
def host(settings: Any) -> None:
    """A project that uses the outbox by the settings of this Django; warnings are errors."""
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "WAKE": ""}
    settings.ADMINS = settings.MANAGERS = (
        ["admin@example.com"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.com")]
    )
    if HAS_MAILERS:
        settings.MAILERS = {
            "default": {"BACKEND": PATH},
            "bulk": {
                "BACKEND": PATH,
                "OPTIONS": {"account": "bulk", "priority": -5, "expires_after": "6h", "on_unknown": "hold"},
            },
            "quiet": {"BACKEND": PATH, "OPTIONS": {"account": "absent", "fail_silently": True}},
            "wrong": {"BACKEND": PATH, "OPTIONS": {"acount": "main"}},
            "worse": {"BACKEND": PATH, "OPTIONS": {"priority": 11}},
        }
    else:
        settings.EMAIL_BACKEND = PATH
    for name in ("main", "bulk"):
        Account.objects.create(name=name, email=f"{name}@example.com", host="localhost", port=25, auth_method="none")


def the_row() -> OutboxMessage:
    return OutboxMessage.objects.get()


def test_send_mail() -> None:
    sent = mail.send_mail("Hello", "text", "app@example.com", ["ann@example.org"], html_message="<p>html</p>")
    assert sent == 1
    assert (the_row().subject, the_row().body_text, the_row().body_html) == ("Hello", "text", "<p>html</p>")


def test_send_mass_mail() -> None:
    mails = [(f"n {number}", "text", None, [f"p{number}@example.org"]) for number in range(3)]
    assert mail.send_mass_mail(mails) == 3
    assert OutboxMessage.objects.count() == 3


def test_mail_to_admins_and_managers() -> None:
    mail.mail_admins("Down", "text")
    mail.mail_managers("Broken link", "text")
    subjects = set(OutboxMessage.objects.values_list("subject", flat=True))
    assert subjects == {"[Django] Down", "[Django] Broken link"}


def test_a_message_has_the_id_of_its_row() -> None:
    message = EmailMessage("Hello", "text", "app@example.com", ["ann@example.org"])
    assert message.send() == 1
    assert message.outbox_id == the_row().pk  # type: ignore[attr-defined]


def test_a_password_reset(settings: Any) -> None:
    texts = {"subject.txt": "Your password", "body.html": "{{ token }}"}
    loaders = [("django.template.loaders.locmem.Loader", texts)]
    settings.TEMPLATES = [
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": loaders}}
    ]
    User.objects.create_user("ann", "ann@example.org", "old password")
    form = PasswordResetForm({"email": "ann@example.org"})
    assert form.is_valid()
    form.save(domain_override="example.com", subject_template_name="subject.txt", email_template_name="body.html")
    assert [recipient.address for recipient in the_row().recipients.all()] == ["ann@example.org"]


def test_an_error_mail() -> None:
    record = logging.LogRecord("django.request", logging.ERROR, __file__, 1, "It broke", None, None)
    AdminEmailHandler().emit(record)
    assert "It broke" in the_row().subject


def test_sendtestemail_queues(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("sendtestemail", "ann@example.org")
    assert the_row().status == "pending"


if HAS_MAILERS:

    def test_a_mailer_is_chosen_by_using() -> None:
        mail.send_mail("Hello", "text", None, ["ann@example.org"], using="bulk")
        row = the_row()
        assert (row.account.name, row.priority, row.on_unknown) == ("bulk", -5, "hold")
        assert row.expires_at is not None

    def test_a_silent_mailer_raises_nothing() -> None:
        assert make_email().send(using="quiet") == 0
        assert not OutboxMessage.objects.exists()

    @pytest.mark.parametrize("alias", ["wrong", "worse"])
    def test_a_wrong_option_names_its_mailer(alias: str) -> None:
        with pytest.raises(mail.InvalidMailer, match=f"MAILERS\\['{alias}'\\]"):
            make_email().send(using=alias)

    def test_a_mistyped_option_of_a_mailer_names_the_known_options() -> None:
        with pytest.raises(mail.InvalidMailer, match="Unknown options 'acount'. Known options: account, expires_after"):
            make_email().send(using="wrong")

    def test_the_old_settings_on_a_new_django_cause_no_warning_except_djangos_own(settings: Any) -> None:
        del settings.MAILERS
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with override_settings(EMAIL_BACKEND=PATH):
                assert make_email().send() == 1
                assert mail.get_connection(account="bulk", fail_silently=True).send_messages([make_email()]) == 1
        warned = "\n".join(str(warning.message) for warning in seen)
        assert "OutboxEmailBackend" not in warned
        assert "BaseEmailBackend" not in warned
        assert OutboxMessage.objects.filter(account__name="bulk").count() == 1

else:

    def test_a_connection_may_name_its_account() -> None:
        connection = mail.get_connection(account="bulk", priority=-5)
        assert make_email(connection=connection).send() == 1
        assert (the_row().account.name, the_row().priority) == ("bulk", -5)

    def test_a_mistyped_option_of_a_connection_is_refused_at_once() -> None:
        with pytest.raises(ImproperlyConfigured, match="acount"):
            mail.get_connection(acount="bulk")

    def test_what_is_meant_for_another_backend_is_ignored_as_django_does() -> None:
        assert make_email(connection=mail.get_connection(foo="bar")).send() == 1

    def test_a_server_or_credentials_of_a_call_are_refused_and_not_ignored() -> None:
        with pytest.raises(ImproperlyConfigured, match="options host, port"):
            mail.get_connection(host="mail.example.org", port=25)
        with pytest.raises(ImproperlyConfigured, match="options password, username"):
            mail.send_mail("Hello", "text", None, ["ann@example.org"], auth_user="u", auth_password="p")

    def test_fail_silently_of_a_call_is_honoured() -> None:
        Account.objects.all().delete()
        assert mail.send_mail("Hello", "text", None, ["ann@example.org"], fail_silently=True) == 0


def test_a_wrong_option_is_refused_at_once() -> None:
    for options in ({"priority": "high"}, {"expires_after": "soon"}, {"on_unknown": "drop"}, {"account": 7}):
        with pytest.raises(ImproperlyConfigured, match=next(iter(options))):
            OutboxEmailBackend(**options)  # type: ignore[arg-type]


def test_a_mistyped_option_chooses_no_other_account() -> None:
    with pytest.raises(
        ImproperlyConfigured, match="Unknown options 'acount'. Known options: account, expires_after, fail_silently"
    ):
        OutboxEmailBackend(acount="bulk")
    assert not OutboxMessage.objects.exists()


def test_an_option_of_a_subclass_is_its_own() -> None:
    class Stamping(OutboxEmailBackend):
        outbox_options = OutboxEmailBackend.outbox_options | {"stamp"}

        def __init__(self, *, stamp: str = "", **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.stamp = stamp

    assert Stamping(stamp="blue", account="bulk").send_messages([make_email()]) == 1
    with pytest.raises(ImproperlyConfigured, match="Known options: .*stamp"):
        Stamping(stmp="blue")
