"""Rules about messages that grow too old, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prx_email_django.rules import policy
from prx_email_django.store import claimed
from prx_email_django.worker import claim_source
from tests.simulation.breaking import put, replace_everywhere


def expired_messages_go() -> None:
    """A drain sends what has expired."""
    put(claim_source.DueMessages, "split_expired", lambda self, claims: (list(claims), []))


def patience_is_shorter() -> None:
    """A message is given up long before its time."""

    def soon(*, give_up_after: timedelta, **options: Any) -> bool:
        return policy.gave_up(give_up_after=give_up_after / 4, **options)

    replace_everywhere(claimed.gave_up, soon, claimed)


MUTATIONS = (
    (expired_messages_go, "patience", "after its time, and sent", "680010"),
    (patience_is_shorter, "patience,network", "s before its time", "680019"),
)
