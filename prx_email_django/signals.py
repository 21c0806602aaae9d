"""Signals for the project, sent right after the change has been committed.

Receivers get ``message`` (an ``OutboxMessage``) or ``account``, and are called with ``send_robust``: an exception of a
receiver is logged and does not affect delivery.  Signals do not use ``on_commit``, so they are sent in a ``TestCase``
too.
"""

from __future__ import annotations

from django.dispatch import Signal

#: ``message``: the server has accepted the message for every open recipient.
message_sent = Signal()
#: ``message``, ``next_attempt_at``: an attempt failed and another attempt will follow.
message_deferred = Signal()
#: ``message``, ``error_code``: at rest after an outcome, a recovery or expiry (not after cancel or adopt).
message_failed = Signal()
#: ``message``, ``recipients`` (address -> text): the server has refused these recipients permanently.
recipients_refused = Signal()
#: ``account``, ``reason``, ``until``: a worker paused the account.
account_paused = Signal()
