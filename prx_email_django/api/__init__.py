"""The public functions: validate, then ``store`` or ``worker``.  No rule lives here."""

from prx_email_django.api.account_check import check_account, check_steps
from prx_email_django.api.aio import adrain, aenqueue, areply, aretry_outbox, asend
from prx_email_django.api.erasure import erase_address
from prx_email_django.api.history import record_sent
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
from prx_email_django.api.queueing import copy_outbox, enqueue, enqueue_drafts, enqueue_many, resend_outbox
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
    "copy_outbox",
    "dismiss_outbox",
    "drain",
    "enqueue",
    "enqueue_drafts",
    "enqueue_many",
    "erase_address",
    "pause_outbox",
    "purge_outbox",
    "record_inbound",
    "record_sent",
    "reply",
    "requeue_outbox",
    "resend_outbox",
    "resolve_account",
    "resume_outbox",
    "retry_outbox",
    "send",
]
