"""Slots, rate windows, pauses and learned tokens: the rows beside the account, shared by all workers on all machines.

No worker writes an ``Account`` row.
"""

from prx_email_django.limits.pauses import (
    account_state,
    end_expired_pause,
    is_paused,
    note_failure,
    note_overlap_lost,
    note_size,
    note_success,
    pause_by_person,
    resume_by_person,
)
from prx_email_django.limits.slots import (
    Slot,
    acquire_slot,
    acquire_slot_heeding_pause,
    release_slots,
    renew_slots,
)
from prx_email_django.limits.tokens import (
    access_token,
    drop_token,
    may_refresh,
    store_token,
    take_refresh_lease,
)
from prx_email_django.limits.windows import Permits, give_back, has_permits, take_permits, take_recipients

__all__ = [
    "Permits",
    "Slot",
    "access_token",
    "account_state",
    "acquire_slot",
    "acquire_slot_heeding_pause",
    "drop_token",
    "end_expired_pause",
    "give_back",
    "has_permits",
    "is_paused",
    "may_refresh",
    "note_failure",
    "note_overlap_lost",
    "note_size",
    "note_success",
    "pause_by_person",
    "release_slots",
    "renew_slots",
    "resume_by_person",
    "store_token",
    "take_permits",
    "take_recipients",
    "take_refresh_lease",
]
