"""The public functions: validate, then ``store``, then ``delivery``.  No rule of the machine lives here."""

from prx_email_django.api.account_check import check_account, check_steps
from prx_email_django.api.aio import adrain, aenqueue, areply, aretry_outbox, asend
from prx_email_django.api.inbound import record_inbound, reply
from prx_email_django.api.operations import (
    adopt_outbox,
    cancel_outbox,
    confirm_outbox,
    dismiss_outbox,
    pause_outbox,
    purge_outbox,
    requeue_outbox,
    resume_outbox,
)
from prx_email_django.api.queueing import enqueue, enqueue_drafts, enqueue_many
from prx_email_django.api.sending import drain, retry_outbox, send
from prx_email_django.compose.accounts import account_default_from, account_to_queue, resolve_account
from prx_email_django.store.insert_statement import Unfit

__all__ = [
    "Unfit",
    "account_default_from",
    "account_to_queue",
    "adopt_outbox",
    "adrain",
    "aenqueue",
    "areply",
    "aretry_outbox",
    "asend",
    "cancel_outbox",
    "check_account",
    "check_steps",
    "confirm_outbox",
    "dismiss_outbox",
    "drain",
    "enqueue",
    "enqueue_drafts",
    "enqueue_many",
    "pause_outbox",
    "purge_outbox",
    "record_inbound",
    "reply",
    "requeue_outbox",
    "resolve_account",
    "resume_outbox",
    "retry_outbox",
    "send",
]
