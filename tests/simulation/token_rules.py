"""What must be true of access tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.simulation.findings import Findings
from tests.simulation.tokens import LOSES_ANSWERS, Fetch

#: Seconds from the answer until the token stands in the database.
STORED_WITHIN = 1.0


def one_asks_for_a_token_at_a_time(found: Findings) -> Iterator[str]:
    """Two workers do not ask for the token of one account at once."""
    if not found.is_prompt or found.schedule.kinds & LOSES_ANSWERS:
        return
    for first, second in combinations(found.schedule.tokens.fetches, 2):
        if first.account == second.account and first.begins < second.ends and second.begins < first.ends:
            yield f"{first.client} and {second.client} asked for a token of {first.account} at once"


def refresh_tokens_are_used_once(found: Findings) -> Iterator[str]:
    """What the token server gave in place of a refresh token is used from then on."""
    if found.schedule.kinds & LOSES_ANSWERS:
        return
    for fetch in found.schedule.tokens.used_again:
        yield f"{fetch.client} used a refresh token of {fetch.account} again at {fetch.begins - 1000:.3f}"


def good_tokens_are_kept(found: Findings) -> Iterator[str]:
    """Nobody asks for a token while one is good that was fetched before."""
    if not found.is_prompt or found.schedule.kinds & LOSES_ANSWERS:
        return
    tokens = found.schedule.tokens
    for fetch in tokens.fetches:
        for before in tokens.fetches:
            if before.account == fetch.account and before.token and _is_good(found, before, fetch.begins):
                yield f"{fetch.client} asked for a token at {fetch.begins - 1000:.3f} although {before.token} was good"


def _is_good(found: Findings, fetch: Fetch, at: float) -> bool:
    tokens = found.schedule.tokens
    if tokens.lifetime is None or tokens.refused.get(fetch.token, float("inf")) <= at:
        return False
    margin = min(60.0, tokens.lifetime / 10) + STORED_WITHIN
    # Its life is counted from the request on.
    return fetch.ends + STORED_WITHIN < at < fetch.begins + tokens.lifetime - margin


def logins_cost_no_message(found: Findings) -> Iterator[str]:
    """A refused login is the account's trouble: only a caller who waits is told of it as a failure."""
    for pk, attempts in found.attempts.items():
        for attempt in attempts:
            if attempt.phase == "auth" and attempt.worker.startswith(("worker", "director")):
                yield f"message {pk} paid for a login of {attempt.worker}: {attempt.error}"


RULES = (one_asks_for_a_token_at_a_time, refresh_tokens_are_used_once, good_tokens_are_kept, logins_cost_no_message)
