"""One slot of an account, as a test needs it."""

from __future__ import annotations

from prx_email_django.limits.slots import Slot, acquire_slots
from prx_email_django.models import Account
from prx_email_django.rules.clock import Clock


def acquire_slot(account: Account, *, noted: set[Slot], clock: Clock, first_only: bool = False) -> Slot | None:
    """Take a free slot; None: there is none."""
    slots = acquire_slots(account, 1, noted=noted, clock=clock, first_only=first_only)
    return slots[0] if slots else None
