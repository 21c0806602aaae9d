"""Durations as people write them, and how long rows are kept (RETENTION)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from prx_email_django.rules.spelling import closest
from prx_email_django.rules.words import words as _

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

RETENTION_DEFAULT: Mapping[str, str | None] = {"sent": "90d", "failed": "365d", "inbound": "90d", "content": None}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long rows are kept when they are sent or at rest, and the ``content`` (bodies, attachments) of sent rows.

    None: for ever.
    """

    sent: timedelta | None
    failed: timedelta | None
    inbound: timedelta | None
    content: timedelta | None


def parse_duration(value: object) -> timedelta:
    """The duration of seconds, a ``timedelta``, or text like ``"30s"``, ``"10m"``, ``"6h"``, ``"5d"``, ``"2w"``.

    Raises:
        ValueError: anything else, also a duration that is negative or infinite.
    """
    try:
        duration = _duration(value)
    except OverflowError:
        duration = None
    if duration is None or duration < timedelta(0):
        raise ValueError(_('must be a duration: seconds, a timedelta, or text like "30s", "10m", "6h" or "5d"'))
    return duration


def _duration(value: object) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return timedelta(seconds=value)
    return None


def positive_duration(value: object) -> timedelta:
    """The same, but not zero.

    Raises:
        ValueError: it is no such duration.
    """
    duration = parse_duration(value)
    if not duration:
        raise ValueError(_("must be longer than 0 seconds"))
    return duration


def read_retention(value: object) -> Retention:
    """The durations of the setting RETENTION, with the defaults of those that are not named.

    Raises:
        ValueError: it is no such dict.
    """
    kept: dict[str, object] = dict(RETENTION_DEFAULT)
    if not isinstance(value, Mapping):
        raise ValueError(_("must be a dict with keys among %(names)s", names=", ".join(kept)))
    for key, duration in value.items():
        if key not in kept:
            meant = closest(str(key), kept)
            if meant:
                raise ValueError(
                    _("must not have the key %(key)s (did you mean %(meant)s?)", key=repr(key), meant=repr(meant))
                )
            raise ValueError(_("must not have the key %(key)s", key=repr(key)))
        kept[key] = duration
    return Retention(**{key: _optional_duration(key, duration) for key, duration in kept.items()})


def _optional_duration(key: str, value: object) -> timedelta | None:
    try:
        return None if value is None else positive_duration(value)
    except ValueError as error:
        raise ValueError(_("[%(key)s] %(problem)s, or None", key=repr(key), problem=error)) from None
