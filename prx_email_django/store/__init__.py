"""The only writer of a message's status: each verb a conditional UPDATE whose row count is the answer."""

from prx_email_django.store.adopt import adopt
from prx_email_django.store.base import atomic, clock_for, worker_name
from prx_email_django.store.claims import (
    Claim,
    Lease,
    Taken,
    claim,
    claim_ids,
    has_due,
    load_claims,
    next_due,
    next_recipients,
    release,
    renew,
    split_expired,
)
from prx_email_django.store.finalize import finalize, settle
from prx_email_django.store.insert import Draft, DraftPart, insert, insert_many
from prx_email_django.store.outbox import (
    begin_drain,
    check_instance,
    claim_purge,
    is_paused,
    outbox_state,
    pause_everything,
    request_wake,
    resume_everything,
)
from prx_email_django.store.people import cancel, check_retry, claim_one, confirm, requeue
from prx_email_django.store.purge import PurgeReport, purge, purge_idle
from prx_email_django.store.records import Finished, Recorded
from prx_email_django.store.recover import expire, recover

__all__ = [
    "Claim",
    "Draft",
    "DraftPart",
    "Finished",
    "Lease",
    "PurgeReport",
    "Recorded",
    "Taken",
    "adopt",
    "atomic",
    "begin_drain",
    "cancel",
    "check_instance",
    "check_retry",
    "claim",
    "claim_ids",
    "claim_one",
    "claim_purge",
    "clock_for",
    "confirm",
    "expire",
    "finalize",
    "has_due",
    "insert",
    "insert_many",
    "is_paused",
    "load_claims",
    "next_due",
    "next_recipients",
    "outbox_state",
    "pause_everything",
    "purge",
    "purge_idle",
    "recover",
    "release",
    "renew",
    "request_wake",
    "requeue",
    "resume_everything",
    "settle",
    "split_expired",
    "worker_name",
]
