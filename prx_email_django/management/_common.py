"""What the commands share: how arguments are read, which messages are meant, how a report is told."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from prx_email_django.conf import parse_duration
from prx_email_django.errors import OutboxError
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import ChangeReport
from prx_email_django.states import ErrorCode

#: SQLite, PostgreSQL, MariaDB and MySQL on a table that is not there.
_MISSING_TABLE = re.compile(r"no such table|relation .* does not exist|Table .* doesn't exist")


def duration(value: str | float | timedelta) -> timedelta:
    """An argument like ``30``, ``30s``, ``10m``, ``6h`` or ``5d``; without a unit: seconds.

    ``call_command`` hands options over as they are, so commands read them once more; a value is left as it is.
    """
    is_number = isinstance(value, str) and value.replace(".", "", 1).isdigit()
    try:
        return parse_duration(float(value) if is_number else value)  # type: ignore[arg-type]
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r} {error}") from None


def past(value: str | datetime) -> datetime:
    """An argument that names an instant: an ISO 8601 date and time, or how long ago (``2h``)."""
    return _instant(value, -1)


def future(value: str | datetime) -> datetime:
    """An argument that names an instant: an ISO 8601 date and time, or in how long (``2h``)."""
    return _instant(value, 1)


def _instant(value: str | datetime, direction: int) -> datetime:
    try:
        moment = parse_datetime(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r}: {error}") from None
    if moment is None:
        try:
            return datetime.now(UTC) + direction * duration(str(value))
        except ArgumentTypeError:
            span = "how long ago" if direction < 0 else "in how long"
            text = f"{value!r}: write an ISO 8601 date and time, as 2026-11-25T14:00, or {span}, as 30m, 2h or 5d"
            raise ArgumentTypeError(text) from None
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def account_named(name: str) -> Account:
    """The account of that name.

    Raises:
        CommandError: there is none.
    """
    account: Account | None = Account.objects.filter(name=name).first()
    if account is None:
        raise CommandError(f"There is no account “{name}”.")
    return account


def add_selection(parser: CommandParser) -> None:
    """Arguments that say which messages are meant: ids, or filters that must all hold."""
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="messages, by id")
    parser.add_argument("--account", metavar="NAME", help="messages of this account")
    parser.add_argument("--error-code", choices=ErrorCode.values, help="messages whose last error has this code")
    parser.add_argument("--tag", help="messages with this tag")
    parser.add_argument(
        "--since",
        type=past,
        metavar="WHEN",
        help="messages queued at or after this instant: ISO 8601, or how long ago (2h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell how many it would be")


def selection(options: dict[str, Any], eligible: QuerySet[OutboxMessage]) -> QuerySet[OutboxMessage] | list[int]:
    """The messages that the arguments name: the ids as they are, or those of ``eligible`` that pass the filters.

    Raises:
        CommandError: neither ids nor a filter, or both, or no such account.
    """
    filters = _filters(options)
    if options["ids"] and filters:
        raise CommandError("Give either ids or filters, not both.")
    if options["ids"]:
        return list(options["ids"])
    if not filters:
        raise CommandError("Name the messages: ids, or --account, --error-code, --tag or --since.")
    return eligible.filter(**filters)


def _filters(options: dict[str, Any]) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if options["account"] is not None:
        filters["account"] = account_named(options["account"])
    if options["error_code"] is not None:
        filters["last_error_code"] = options["error_code"]
    if options["tag"] is not None:
        filters["tag"] = options["tag"]
    if options["since"] is not None:
        filters["created_at__gte"] = past(options["since"])
    return filters


def count_eligible(chosen: QuerySet[OutboxMessage] | list[int], eligible: QuerySet[OutboxMessage]) -> int:
    """How many of the chosen messages the verb would change now."""
    return eligible.filter(pk__in=chosen).count() if isinstance(chosen, list) else chosen.count()


def told(report: ChangeReport, verb: str) -> str:
    """``requeued 3; refused: 1 sent, 2 not_found``."""
    refused = ", ".join(f"{count} {code}" for code, count in sorted(report.refused.items()))
    return f"{verb} {report.changed}" + (f"; refused: {refused}" if refused else "")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that a person can act on become a line instead of a traceback.

    Raises:
        CommandError: what was wrong, in words.
    """
    try:
        yield
    except OutboxError as error:
        raise CommandError(f"{error} ({error.code})") from error
    except (ImproperlyConfigured, ArgumentTypeError) as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        hint = " (has “manage.py migrate” been run?)" if _MISSING_TABLE.search(str(error)) else ""
        raise CommandError(f"The database cannot be used: {first_line(error)}{hint}") from error


def first_line(error: Exception) -> str:
    """What an error says, without the statement and the values that some drivers append."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
