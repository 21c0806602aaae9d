"""Rules about what is written ahead of the server's replies, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

from prx_email_django.transports.smtp import reply_rules, session_state
from prx_email_django.worker import token_keeper
from tests.simulation.breaking import put, replace_everywhere


def refused_ahead_is_a_failure() -> None:
    """A message pays for it that the server does not bear what was written ahead."""
    replace_everywhere(reply_rules.refuses_ahead, lambda *args, **options: False, session_state)


def refusals_ahead_are_forgotten() -> None:
    """Each connection tries again what the server has refused."""
    put(token_keeper, "_written_ahead", lambda account, state, *, now: (account.pipelining, account.max_in_flight))


MUTATIONS = (
    (refused_ahead_is_a_failure, "ahead", "paid for 503", "680003"),
    (refusals_ahead_are_forgotten, "ahead", "which was refused until", "690620"),
)
