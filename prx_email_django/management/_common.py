"""Shared by the commands: parsing of arguments, selection of messages, text of a report, text of errors."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unicodedata import east_asian_width

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.db import Error as DatabaseError
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from prx_email_django.conf import parse_duration
from prx_email_django.errors import OutboxError
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.results import ChangeReport
from prx_email_django.rules.text import shown_name
from prx_email_django.rules.words import in_words
from prx_email_django.states import ErrorCode
from prx_email_django.store.declared import keep_declared_accounts
from prx_email_django.store.operations import possible_keys

#: Error texts of SQLite, PostgreSQL, MariaDB and MySQL for a missing table.
_MISSING_TABLE = re.compile(r"no such table|relation .* does not exist|Table .* doesn't exist")


#: Who pauses and resumes, in the history.
BY_COMMAND = "manage.py"


def duration(value: str | float | timedelta) -> timedelta:
    """Parse an argument like ``30``, ``30s``, ``10m``, ``6h`` or ``5d``; a number without a unit is seconds.

    ``call_command`` does not parse options, so commands call this function again; a timedelta is returned unchanged.

    Raises:
        ArgumentTypeError: the text is not a duration.
    """
    is_number = isinstance(value, str) and value.replace(".", "", 1).isdigit()
    try:
        return parse_duration(float(value) if is_number else value)  # type: ignore[arg-type]
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r} {in_words(error, _)}") from None


def age(value: str | timedelta) -> timedelta:
    """Parse an argument like ``30s``, ``10m``, ``6h`` or ``5d``; a number without a unit is refused.

    Raises:
        ArgumentTypeError: the text is not a duration with a unit: ``--older-than 3`` was meant as days, read as
            seconds, and deleted everything.
    """
    if not isinstance(value, timedelta) and _is_number(str(value)):
        number = str(value).strip()
        raise ArgumentTypeError(
            _("%(text)s must have a unit: %(number)ss, %(number)sm, %(number)sh or %(number)sd")
            % {"text": repr(number), "number": number}
        )
    return duration(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def past(value: str | datetime) -> datetime:
    """Parse an ISO 8601 date and time, or a duration before now (``2h``: two hours ago)."""
    return _instant(value, -1)


def future(value: str | datetime) -> datetime:
    """Parse an ISO 8601 date and time, or a duration from now (``2h``: in two hours)."""
    return _instant(value, 1)


def _instant(value: str | datetime, direction: int) -> datetime:
    try:
        moment = parse_datetime(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r}: {error}") from None
    if moment is None:
        try:
            return datetime.now(UTC) + direction * age(str(value))
        except ArgumentTypeError:
            span = _("a duration before now") if direction < 0 else _("a duration from now")
            text = _("%(value)s must be an ISO 8601 date and time (2026-11-25T14:00) or %(span)s (30m, 2h, 5d)") % {
                "value": f"{value!r}",
                "span": span,
            }
            raise ArgumentTypeError(text) from None
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def account_named(name: str) -> Account:
    """Return the account with this name.

    Raises:
        CommandError: there is no such account.
    """
    keep_declared_accounts()
    account: Account | None = Account.objects.filter(name=name).first()
    if account is None:
        raise CommandError(_("There is no account “%(name)s”.") % {"name": shown_name(name)})
    return account


def add_account(parser: CommandParser) -> None:
    """Add the argument that names an account, or (if it is omitted) the whole outbox."""
    parser.add_argument("account", nargs="?", metavar="ACCOUNT", help=_("name of the account; if omitted, everything"))


def chosen_account(options: dict[str, Any]) -> Account | None:
    """Return the account of the argument; None: everything."""
    return account_named(options["account"]) if options["account"] is not None else None


def add_selection(parser: CommandParser) -> None:
    """Add the arguments that select messages: ids, or filters that must all match."""
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help=_("ids of messages"))
    parser.add_argument("--account", metavar="NAME", help=_("messages of this account"))
    parser.add_argument("--error-code", choices=ErrorCode.values, help=_("messages whose last error has this code"))
    parser.add_argument("--tag", help=_("messages with this tag"))
    parser.add_argument(
        "--since",
        type=past,
        metavar="WHEN",
        help=_("messages queued at or after this time: ISO 8601, or a duration before now (2h)"),
    )
    parser.add_argument("--dry-run", action="store_true", help=_("change nothing, only print the number of messages"))


def selection(options: dict[str, Any], eligible: QuerySet[OutboxMessage]) -> QuerySet[OutboxMessage] | list[int]:
    """Return the ids of the arguments, or the messages of ``eligible`` that match all filters.

    Raises:
        CommandError: neither ids nor a filter is given, or both are, or the account does not exist.
    """
    filters = chosen_filters(options)
    if options["ids"] and filters:
        raise CommandError(_("Give either ids or filters, not both."))
    if options["ids"]:
        return list(options["ids"])
    if not filters:
        raise CommandError(_("Select messages by ids, or by --account, --error-code, --tag or --since."))
    return eligible.filter(**filters)


def chosen_filters(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filters of the arguments as conditions of a query."""
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "account": ("account", account_named),
        "error_code": ("last_error_code", str),
        "tag": ("tag", str),
        "since": ("created_at__gte", past),
    }
    return {column: read(options[name]) for name, (column, read) in readers.items() if options[name] is not None}


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that a person can resolve into one line without a traceback.

    Raises:
        CommandError: the text says what is wrong.
    """
    try:
        yield
    except OutboxError as error:
        raise CommandError(f"{in_words(error, _)} ({error.code})") from error
    except (ImproperlyConfigured, ArgumentTypeError) as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        option = "" if (alias := outbox_alias()) == DEFAULT_DB_ALIAS else f" --database {alias}"
        hint = (
            _(" (run “manage.py migrate%(option)s”)") % {"option": option} if _MISSING_TABLE.search(str(error)) else ""
        )
        raise CommandError(
            _("The database cannot be used: %(error)s%(hint)s") % {"error": first_line(error), "hint": hint}
        ) from error


def columns(text: str) -> int:
    """Columns of a terminal that the text takes; a Japanese character takes two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def padded(text: str, width: int = 16) -> str:
    """Fill up with spaces to so many columns of a terminal."""
    return text + " " * max(width - columns(text), 0)


def first_line(error: Exception) -> str:
    """Return the text of an error without the SQL statement and values that some drivers append."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class OutboxCommand(BaseCommand):
    """A command whose ``help`` is marked by ``gettext_noop``, and translated when it is shown."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser, with the help in the language of the project."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.description = _(self.help)
        return parser


class SelectionCommand(OutboxCommand):
    """A command that applies one operation to the selected messages.

    Exit code 0, also if messages were refused; 1 for an error.
    """

    #: What would be and was done to ``count`` messages, marked by ``gettext_noop``.
    would: str
    done: str
    #: The messages that the operation would change now.
    eligible: Q
    #: The public function that applies the operation to ids or a query set.
    operate: Callable[..., ChangeReport]

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the selection of messages."""
        add_selection(parser)

    def eligible_for(self, options: dict[str, Any]) -> Q:
        """Return the condition of the messages that these arguments may select."""
        return self.eligible

    def handle(self, *args: Any, **options: Any) -> None:
        """Apply the operation and print how many messages changed and how many were refused."""
        with plain_errors():
            eligible = OutboxMessage.objects.filter(self.eligible_for(options))
            chosen = selection(options, eligible)
            if options["dry_run"]:
                found = eligible.filter(pk__in=possible_keys(chosen)) if isinstance(chosen, list) else chosen
                self.stdout.write(_(self.would) % {"count": found.count()})
                return
            report = self.operate(chosen)
        refused = ", ".join(f"{count} {code}" for code, count in sorted(report.refused.items()))
        self.stdout.write(
            _(self.done) % {"count": report.changed}
            + (_("; refused: %(refused)s") % {"refused": refused} if refused else "")
        )
