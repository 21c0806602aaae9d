"""Signals for the host application, sent right after the change has been committed.

Receivers get ``message`` (an ``OutboxMessage``) or ``account``, and are called with ``send_robust``: one that raises is
logged and never disturbs delivery.  They are sent outside ``on_commit`` so that they fire in a ``TestCase`` too.
"""

from __future__ import annotations

from django.dispatch import Signal

#: ``message``: every recipient that was still open has been accepted.
message_sent = Signal()
#: ``message``, ``next_attempt_at``: an attempt failed and another one will follow.
message_deferred = Signal()
#: ``message``, ``error_code``: at rest by an outcome, a recovery or expiry (not by cancel or adopt).
message_failed = Signal()
#: ``message``, ``recipients`` (address -> text): refused for good by the server.
recipients_refused = Signal()
#: ``account``, ``reason``, ``until``: a worker paused the account.
account_paused = Signal()
