"""Rules about redirected messages, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prx_email_django.models import message
from prx_email_django.rules import redirect
from tests.simulation.breaking import replace_everywhere


def redirected_messages_reach_their_recipients() -> None:
    """A message with several recipients is not redirected."""
    route = redirect.route

    def direct(addresses: Sequence[str], **options: Any) -> redirect.Route:
        return route(addresses) if len(addresses) > 1 else route(addresses, **options)

    replace_everywhere(route, direct, message)


MUTATIONS = ((redirected_messages_reach_their_recipients, "redirect", "although it is redirected", "680001"),)
