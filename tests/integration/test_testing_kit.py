"""The test kit for host projects: its documented examples, in a ``TestCase`` and with pytest."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.mail import send_mail
from django.test import TransactionTestCase
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.conf import outbox_settings
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.testing import OutboxMixin, OutboxTestCase, TestOutbox
from prx_email_django.testing.pytest import outbox as _outbox

outbox = _outbox


def welcome(to: str = "ann@example.org") -> None:
    """Code of a host project."""
    send_mail("Welcome", "Hello {{ name }}", "app@example.com", [to])


class OutboxTestCaseTest(OutboxTestCase):
    """The kit in a ``TestCase``: everything runs inside one transaction."""

    @classmethod
    def setUpTestData(cls) -> None:
        """Messages queued for all tests need their own account."""
        cls.account = Account.objects.create(name="other", host="localhost", port=25, auth_method="none")
        prx.enqueue(account=cls.account, to="early@example.org", subject="Early", body_text="text")

    def test_mail_is_queued_delivered_and_seen(self) -> None:
        welcome()
        message = self.assert_queued(to="ann@example.org", subject="Welcome")
        self.assertEqual(self.deliver().sent, 2)
        self.assertEqual([delivered.message["Subject"] for delivered in self.outbox.delivered], ["Early", "Welcome"])
        message.refresh_from_db()
        self.assertEqual(message.status, "sent")

    def test_a_test_begins_with_what_its_class_prepared_only(self) -> None:
        self.assertEqual([message.subject for message in self.outbox], ["Early"])
        self.assertEqual(len(self.outbox.delivered), 0)

    def test_djangos_own_outbox_still_works(self) -> None:
        welcome()
        self.assertEqual([message.subject for message in mail.outbox], ["Welcome"])
        self.assertEqual(mail.outbox[0].outbox_id, self.outbox[-1].pk)


class TransactionCaseTest(OutboxMixin, TransactionTestCase):
    """The kit in a test case without a transaction."""

    def test_mail_is_queued_and_delivered(self) -> None:
        welcome()
        self.assert_queued(subject="Welcome")
        self.fail_next("rcpt", "550 5.1.1 no such user")
        self.assertEqual(self.deliver().failed, 1)
        self.assert_queued(subject="Welcome", status="failed")


@pytest.fixture
def broken_off(outbox: TestOutbox) -> TestOutbox:
    """An outbox with one message whose next attempt has an unknown outcome."""
    welcome()
    outbox.fail_next("body", accept=True)
    return outbox


def test_the_fixture_delivers(outbox: TestOutbox) -> None:
    welcome()
    outbox.assert_queued(to="ANN@example.org", body="{{ name }}", status="pending", account="test")
    assert outbox.deliver().sent == 1
    assert outbox.delivered[0].recipients == ("ann@example.org",)
    outbox.assert_queued(status="sent")


def test_nothing_of_an_earlier_test_is_there(outbox: TestOutbox) -> None:
    assert (len(outbox), list(outbox), len(outbox.delivered)) == (0, [], 0)


def test_an_outage_is_survived(outbox: TestOutbox) -> None:
    welcome()
    outbox.fail_next("data", "451 4.3.0 later")
    assert outbox.deliver().deferred == 1
    assert outbox.deliver().claimed == 0
    assert outbox.deliver(now=timezone.now() + timedelta(hours=1)).sent == 1


def test_a_refused_login_can_be_played(outbox: TestOutbox) -> None:
    welcome()
    outbox.fail_next("auth")
    assert outbox.deliver().sent == 0
    assert outbox[0].status == "pending"
    assert "535 5.7.8" in Account.objects.get().pause_reason
    prx.resume_outbox("test")
    outbox.fail_next("auth")
    message = {"to": "ann@example.org", "subject": "Welcome", "body_text": "Hi."}
    assert prx.send(account="test", **message).error_code == "auth"


def test_a_connection_lost_or_silent_while_logging_in_can_be_played_too(outbox: TestOutbox) -> None:
    message = {"to": "ann@example.org", "subject": "Welcome", "body_text": "Hi."}
    outbox.fail_next("auth", timeout=True)
    assert prx.send(account="test", **message).error_code == "timeout"
    outbox.fail_next("auth", "451 4.3.0 try later")
    assert prx.send(account="test", **message).error_code == "provider"
    assert not Account.objects.get().pause_reason
    outbox.fail_next("auth", "454 4.7.0 try later")
    assert prx.send(account="test", **message).error_code == "provider"
    assert "throttles logins" in Account.objects.get().pause_reason


def test_an_unknown_outcome_can_be_played(broken_off: TestOutbox) -> None:
    assert broken_off.deliver().sent == 0
    row = broken_off[0]
    assert (row.attempts, row.retries) == (1, 0)
    assert len(broken_off.delivered) == 1


def test_an_assertion_says_what_is_there_instead(outbox: TestOutbox) -> None:
    with pytest.raises(AssertionError, match="The outbox is empty"):
        outbox.assert_queued()
    outbox.assert_not_queued()
    welcome()
    with pytest.raises(AssertionError, match=r"(?s)0 messages match \{'to': 'bob@example.org'\}.*Welcome") as error:
        outbox.assert_queued(to="bob@example.org")
    assert "ann@example.org" in str(error.value)
    welcome()
    with pytest.raises(AssertionError, match="2 messages match .*, but 1 should"):
        outbox.assert_queued(subject="Welcome")
    with pytest.raises(AssertionError, match="2 messages match"):
        outbox.assert_not_queued(tag="")
    with pytest.raises(TypeError, match="subject"):
        outbox.assert_not_queued(subjekt="Welcome")


def test_the_hosts_settings_are_kept_but_for_where_mail_goes(settings: Any, request: pytest.FixtureRequest) -> None:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "shop", "MESSAGE_ID_DOMAIN": "shop.example.com", "TRANSPORT": "console"}
    outbox = request.getfixturevalue("outbox")
    found = outbox_settings()
    assert (found.default_account, found.message_id_domain, found.transport, found.wake) == (
        "shop",
        "shop.example.com",
        "memory",
        "",
    )
    welcome()
    assert outbox[0].account.name == "shop"


def test_an_account_that_is_there_is_used_as_it_is(settings: Any, db: None, request: pytest.FixtureRequest) -> None:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "shop"}
    Account.objects.create(name="shop", host="smtp.example.com", port=465, user="u", password="p")
    outbox = request.getfixturevalue("outbox")
    welcome()
    assert outbox.deliver().sent == 1
    assert Account.objects.get().host == "smtp.example.com"


def test_without_the_kit_a_test_never_reaches_the_outbox(db: None, settings: Any) -> None:
    if hasattr(mail, "mailers"):  # as the test runner leaves them
        settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
    welcome()
    assert not OutboxMessage.objects.exists()
    assert len(mail.outbox) == 1


def test_the_kit_needs_pytest_only_where_it_is_named() -> None:
    import prx_email_django.testing

    sources = Path(prx_email_django.testing.__file__).parent.glob("*.py")
    named = [path.name for path in sources if "import pytest" in path.read_text(encoding="utf-8")]
    assert named == ["pytest.py"]
