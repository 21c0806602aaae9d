"""Django's own tests of mail backends and of the functions that send, with the outbox in the place of the backend.

``mail`` is Django's ``tests/mail``.  Of its tests of the SMTP backend those are borrowed that tell what reaches the
server; the others are about connections, credentials and TLS, which the outbox has elsewhere.
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
from mail import tests as theirs

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
    SMTP_TESTS, SHARED_TESTS = theirs.SMTPBackendTests, theirs.BaseEmailBackendTests
    MAIL_SETTINGS = override_settings(EMAIL_BACKEND=KIT)

BORROWED = (
    "test_avoids_sending_to_invalid_addresses",
    "test_does_not_reencode_idna",
    "test_encodes_idna_in_smtp_commands",
    "test_send_messages_empty_list",
    "test_send_messages_with_empty_list_does_not_open_connection",
    "test_send_messages_zero_sent",
)


class Catching:
    """What is sent is drained into the SMTP server when a test looks."""

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server."""
        super().setUpClass()
        cls.controller = foreign_catcher.start()
        cls.addClassCleanup(cls.controller.stop)

    def setUp(self) -> None:
        """Begin with nothing caught."""
        super().setUp()
        foreign_catcher.prepare(self.controller)

    def get_mailbox_content(self) -> list[Any]:
        """What the server has, parsed as Django's own handler of this version does."""
        caught = [one.content for one in foreign_catcher.drained()]
        if django.VERSION >= (6, 0):
            return [theirs.message_from_bytes(one.replace(b"\r\n", b"\n")) for one in caught]
        return [theirs.message_from_bytes(one.rstrip()) for one in caught]

    def get_smtp_envelopes(self) -> list[dict[str, Any]]:
        """The envelopes that the server has."""
        return [{"mail_from": one.mail_from, "rcpt_tos": one.rcpt_tos} for one in foreign_catcher.drained()]

    def flush_mailbox(self) -> None:
        """Forget what was caught."""
        foreign_catcher.drained().clear()


class BackendTests(Catching, SHARED_TESTS, TestCase):
    """Every backend's tests, and those of the SMTP backend that tell what reaches the server."""

    email_backend = PATH
    backend_class = EmailBackend

    def setUp(self) -> None:
        """Let the borrowed tests find the outbox where they look for the SMTP backend."""
        super().setUp()
        if not HAS_MAILERS:
            found = mock.patch.object(theirs, "smtp", SimpleNamespace(EmailBackend=EmailBackend))
            found.start()
            self.addCleanup(found.stop)

    for _name in BORROWED:
        if hasattr(SMTP_TESTS, _name):
            locals()[_name] = getattr(SMTP_TESTS, _name)
    if HAS_MAILERS:
        # As the SMTP backend's: the option is kept, and causes no warning.
        def test_fail_silently_arg_accepted(self) -> None:
            """With an alias and without one, and never with a warning."""
            for alias in ("test_alias", None):
                for value in (True, False):
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        self.assertIs(self.create_backend(alias=alias, fail_silently=value).fail_silently, value)


class Kept(Catching):
    """Tests that look into ``mail.outbox`` find what was queued, and all of that reaches the server."""

    def tearDown(self) -> None:
        """Nothing that was queued stays behind."""
        foreign_catcher.drained()
        super().tearDown()


@MAIL_SETTINGS
class SendTestEmailTests(Kept, test_sendtestemail.SendTestEmailManagementCommand, TestCase):
    """The command."""


if HAS_MAILERS:

    @MAIL_SETTINGS
    class EmailMessageTests(Kept, theirs.EmailMessageTestsWithMailers, TestCase):
        """``EmailMessage`` and its ``send()``."""

    @MAIL_SETTINGS
    class SendMailTests(Kept, theirs.SendMailTestsWithMailers, TestCase):
        """``send_mail()``."""

    @MAIL_SETTINGS
    class SendMassMailTests(Kept, theirs.SendMassMailTestsWithMailers, TestCase):
        """``send_mass_mail()``."""

    @MAIL_SETTINGS
    class MailAdminsAndManagersTests(Kept, theirs.MailAdminsAndManagersTestsWithMailers, TestCase):
        """``mail_admins()`` and ``mail_managers()``."""

else:

    @MAIL_SETTINGS
    class MailTests(Kept, theirs.MailTests, TestCase):
        """``EmailMessage`` and the functions that send."""

        #: It asserts that Django's test backend is the default one.
        test_backend_arg = None
