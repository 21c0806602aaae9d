"""Test kit for projects that use the outbox.

Django's test runner replaces every mail backend by its own, so in a test no message reaches the outbox.  The kit
restores the outbox backend, keeps delivered messages in memory, and connects to no server.

With ``unittest``::

    from prx_email_django.testing import OutboxTestCase

    class WelcomeTest(OutboxTestCase):
        def test_signing_up_sends_a_welcome(self):
            self.client.post("/signup/", {"email": "ann@example.org"})

            message = self.assert_queued(to="ann@example.org", subject="Welcome")
            self.deliver()

            self.assertEqual(self.outbox.delivered[0].message["Subject"], "Welcome")
            message.refresh_from_db()
            self.assertEqual(message.status, "sent")

        def test_a_welcome_survives_an_outage(self):
            self.fail_next("connect")
            ...

With pytest, in ``conftest.py``: ``pytest_plugins = ["prx_email_django.testing.pytest"]``, then::

    def test_signing_up_sends_a_welcome(client, outbox):
        client.post("/signup/", {"email": "ann@example.org"})
        outbox.assert_queued(to="ann@example.org", subject="Welcome")
        outbox.deliver()
        assert outbox.delivered[0].recipients == ("ann@example.org",)

``OutboxMixin`` does the same for any Django test case with a database; everything works inside the transaction that a
``TestCase`` opens.  ``django.core.mail.outbox`` still contains the messages that were sent through Django, as with
Django's own backend.  The account is ``PRX_EMAIL["DEFAULT_ACCOUNT"]``, else an account named ``test``; it is created if
it does not exist.  Without the kit a project's tests run unchanged, and only ``mail.outbox`` contains messages.
"""

from __future__ import annotations

from prx_email_django.testing.cases import OutboxMixin, OutboxTestCase
from prx_email_django.testing.outbox import TestOutbox

__all__ = ["OutboxMixin", "OutboxTestCase", "TestOutbox"]
