"""Django's own tests of mail backends and of the functions that send, run with the outbox as the backend.

``mail`` is Django's ``tests/mail``.  Of its tests of the SMTP backend only those are used that check what reaches the
server; the others test connections, credentials and TLS, for which the outbox has its own tests.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import django
import foreign_catcher
from django.test import TestCase, override_settings
from foreign_backend import EmailBackend
from mail import test_sendtestemail
from mail import tests as django_tests

PATH = "foreign_backend.EmailBackend"
KIT = "prx_email_django.testing.backend.EmailBackend"
HAS_MAILERS = django.VERSION >= (6, 1)

if HAS_MAILERS:
    from mail import test_backends

    SMTP_TESTS, SHARED_TESTS = test_backends.SMTPBackendTests, test_backends.SharedEmailBackendTests
    MAIL_SETTINGS = override_settings(
        MAILERS={alias: {"BACKEND": KIT} for alias in ("default", "custom", "notifications")}
    )
else:
    SMTP_TESTS, SHARED_TESTS = django_tests.SMTPBackendTests, django_tests.BaseEmailBackendTests
    MAIL_SETTINGS = override_settings(EMAIL_BACKEND=KIT)

SMTP_TEST_NAMES = (
    "test_avoids_sending_to_invalid_addresses",
    "test_does_not_reencode_idna",
    "test_encodes_idna_in_smtp_commands",
    "test_send_messages_empty_list",
    "test_send_messages_with_empty_list_does_not_open_connection",
    "test_send_messages_zero_sent",
)


class Catching:
    """Drains into the SMTP server when a test reads what was sent."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the SMTP server."""
        super().setUpClass()
        cls.controller = foreign_catcher.start()
        cls.addClassCleanup(cls.controller.stop)

    def setUp(self) -> None:
        """Start without received messages."""
        super().setUp()
        foreign_catcher.prepare(self.controller)

    def get_mailbox_content(self) -> list[Any]:
        """The received messages, parsed as Django's own handler of this version does it."""
        contents = [message.content for message in foreign_catcher.drained()]
        if django.VERSION >= (6, 0):
            return [django_tests.message_from_bytes(content.replace(b"\r\n", b"\n")) for content in contents]
        return [django_tests.message_from_bytes(content.rstrip()) for content in contents]

    def get_smtp_envelopes(self) -> list[dict[str, Any]]:
        """The envelopes of the received messages."""
        received = foreign_catcher.drained()
        return [{"mail_from": message.mail_from, "rcpt_tos": message.rcpt_tos} for message in received]

    def flush_mailbox(self) -> None:
        """Remove the received messages."""
        foreign_catcher.drained().clear()


class BackendTests(Catching, SHARED_TESTS, TestCase):
    """The tests that every backend must pass, and those of the SMTP backend that check what reaches the server."""

    email_backend = PATH
    backend_class = EmailBackend

    def setUp(self) -> None:
        """Put the outbox where the tests of the SMTP backend look for that backend."""
        super().setUp()
        if not HAS_MAILERS:
            patch = mock.patch.object(django_tests, "smtp", SimpleNamespace(EmailBackend=EmailBackend))
            patch.start()
            self.addCleanup(patch.stop)

    for _name in SMTP_TEST_NAMES:
        if hasattr(SMTP_TESTS, _name):
            locals()[_name] = getattr(SMTP_TESTS, _name)
    if HAS_MAILERS:
        # As with the SMTP backend: the option is kept, and causes no warning.
        def test_fail_silently_arg_accepted(self) -> None:
            """The option is accepted with and without an alias, and never warns."""
            for alias in ("test_alias", None):
                for value in (True, False):
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        self.assertIs(self.create_backend(alias=alias, fail_silently=value).fail_silently, value)


class DrainedAfterwards(Catching):
    """Tests that read ``mail.outbox``: everything that they enqueued must reach the server."""

    def tearDown(self) -> None:
        """Drain what was enqueued."""
        foreign_catcher.drained()
        super().tearDown()


@MAIL_SETTINGS
class SendTestEmailTests(DrainedAfterwards, test_sendtestemail.SendTestEmailManagementCommand, TestCase):
    """The command ``sendtestemail``."""


if HAS_MAILERS:

    @MAIL_SETTINGS
    class EmailMessageTests(DrainedAfterwards, django_tests.EmailMessageTestsWithMailers, TestCase):
        """``EmailMessage`` and its ``send()``."""

    @MAIL_SETTINGS
    class SendMailTests(DrainedAfterwards, django_tests.SendMailTestsWithMailers, TestCase):
        """``send_mail()``."""

    @MAIL_SETTINGS
    class SendMassMailTests(DrainedAfterwards, django_tests.SendMassMailTestsWithMailers, TestCase):
        """``send_mass_mail()``."""

    @MAIL_SETTINGS
    class MailAdminsAndManagersTests(DrainedAfterwards, django_tests.MailAdminsAndManagersTestsWithMailers, TestCase):
        """``mail_admins()`` and ``mail_managers()``."""

else:

    @MAIL_SETTINGS
    class MailTests(DrainedAfterwards, django_tests.MailTests, TestCase):
        """``EmailMessage`` and the functions that send."""

        #: This test asserts that Django's test backend is the default backend.
        test_backend_arg = None
