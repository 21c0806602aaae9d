"""The OPTIONS of the email backend in MAILERS, read by the backend and by its system check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from prx_email_django.compose.validation import MAX_PRIORITY, MIN_PRIORITY
from prx_email_django.conf import parse_duration

#: Known keys of OPTIONS.  ``fail_silently`` is Django's; Django's base class no longer keeps it.
OPTION_NAMES = ("account", "priority", "expires_after", "on_unknown", "fail_silently")


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How the messages of one mailer are queued."""

    #: Name of the account; empty: the router's, else the default account.
    account: str = ""
    priority: int = 0
    expires_after: timedelta | None = None
    #: Empty: the setting ``ON_UNKNOWN`` decides.
    on_unknown: str = ""


@dataclass(frozen=True, slots=True)
class OptionProblem:
    """What the option ``name`` must be (``message``) and what to write (``hint``); never its value."""

    name: str
    message: str
    hint: str


def read_backend_options(
    account: object = None, priority: object = 0, expires_after: object = None, on_unknown: object = None
) -> BackendOptions:
    """The options, validated.

    Raises:
        ValueError: the first of ``option_problems``.
    """
    for problem in option_problems(account, priority, expires_after, on_unknown):
        raise ValueError(f"option {problem.name!r} {problem.message} {problem.hint}")
    return BackendOptions(
        account=str(account or ""),
        priority=int(str(priority)),
        expires_after=None if expires_after is None else parse_duration(expires_after),
        on_unknown=str(on_unknown or ""),
    )


def option_problems(
    account: object = None, priority: object = 0, expires_after: object = None, on_unknown: object = None
) -> Iterator[OptionProblem]:
    """All problems with the values."""
    if account is not None and (not isinstance(account, str) or not account):
        yield OptionProblem("account", "must be the name of an account.", "Write a name, or leave the option out.")
    is_integer = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_integer or not MIN_PRIORITY <= priority <= MAX_PRIORITY:  # type: ignore[operator]
        wanted = f"an integer from {MIN_PRIORITY} to {MAX_PRIORITY}"
        yield OptionProblem("priority", f"must be {wanted}.", f"Write {wanted}, or leave the option out.")
    if expires_after is not None and not _is_duration(expires_after):
        hint = 'Write seconds, a timedelta, or text like "30s", "10m", "6h" or "5d".'
        yield OptionProblem("expires_after", "must be a duration longer than 0 seconds.", hint)
    if on_unknown not in (None, "", "retry", "hold"):
        hint = 'Write "retry" or "hold", or leave the option out.'
        yield OptionProblem("on_unknown", 'must be "retry" or "hold".', hint)


def _is_duration(value: object) -> bool:
    try:
        return bool(parse_duration(value))
    except ValueError:
        return False
