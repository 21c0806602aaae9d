"""Rules about access tokens, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from prx_email_django.limits import token_refresh
from prx_email_django.worker import refresh, token_keeper
from tests.simulation.breaking import replace_everywhere


def everybody_asks_for_tokens() -> None:
    """The right to ask for a token is given to everybody."""
    replace_everywhere(token_refresh.take_refresh_lease, lambda account, *, clock: uuid.uuid4(), token_keeper)


def new_refresh_tokens_are_forgotten() -> None:
    """The refresh token that comes with an access token is not stored."""
    store = token_refresh.store_token

    def stored(account_id: int, token: Any, **options: Any) -> bool:
        return store(account_id, replace(token, refresh_token=None), **options)

    replace_everywhere(store, stored, refresh)


def tokens_are_not_kept() -> None:
    """A token is fetched for each connection."""
    replace_everywhere(token_refresh.access_token, lambda account, state, **options: "", token_keeper)


MUTATIONS = (
    (everybody_asks_for_tokens, "tokens", "at once", "680010"),
    (new_refresh_tokens_are_forgotten, "tokens", "used a refresh token", "680010"),
    (tokens_are_not_kept, "tokens", "although token-", "680008"),
)
