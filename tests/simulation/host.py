"""The settings of the host project, which may be other ones in each schedule."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.test.signals import setting_changed

from prx_email_django.conf import outbox_settings
from tests.simulation.settings import PRX_EMAIL

#: Where messages go with ``REDIRECT_TO``, and who is not redirected.
STAND_INS = ("staging@x.net", "copy@x.net")
PASSING = "*r1@x.org"


def configure(**changes: Any) -> None:
    """Set the keys of ``PRX_EMAIL`` that differ from the simulation's."""
    wanted = PRX_EMAIL | changes
    if wanted != settings.PRX_EMAIL:
        settings.PRX_EMAIL = wanted
        setting_changed.send(sender=None, setting="PRX_EMAIL", value=wanted, enter=True)


def give_up_after() -> timedelta:
    """``GIVE_UP_AFTER`` in force."""
    return outbox_settings().give_up_after


def redirects() -> tuple[str, ...]:
    """``REDIRECT_TO`` in force."""
    return tuple(outbox_settings().redirect_to)
