"""Options of the email backend, read by the backend and by the system check of MAILERS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.utils.module_loading import import_string

from prx_email_django.compose.validation import MAX_PRIORITY, MIN_PRIORITY
from prx_email_django.conf import outbox_settings, parse_duration
from prx_email_django.conf.declared import DJANGO_ACCOUNT, SMTP_OPTIONS
from prx_email_django.rules.words import Words
from prx_email_django.rules.words import words as _

#: Known keys of OPTIONS.  ``fail_silently`` is Django's; Django's base class no longer keeps it.  The keys of Django's
#: SMTP backend make an account that is named as the mailer.
OPTION_NAMES = ("account", "priority", "expires_after", "on_unknown", "fail_silently", *SMTP_OPTIONS)


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
    """An invalid option: ``message`` says what must be true, ``hint`` what to write.  Neither contains the value."""

    name: str
    message: Words
    hint: Words


def read_backend_options(
    account: object = None, priority: object = 0, expires_after: object = None, on_unknown: object = None
) -> BackendOptions:
    """Return the validated options.

    Raises:
        ValueError: an option is invalid; the text is its first problem.
    """
    for problem in option_problems(account, priority, expires_after, on_unknown):
        raise ValueError(f"option {problem.name!r} {problem.message}")
    return BackendOptions(
        account=str(account or ""),
        priority=int(str(priority)),
        expires_after=None if expires_after is None else parse_duration(expires_after),
        on_unknown=str(on_unknown or ""),
    )


def option_problems(
    account: object = None, priority: object = 0, expires_after: object = None, on_unknown: object = None
) -> Iterator[OptionProblem]:
    """Yield every problem with the values."""
    if account is not None and (not isinstance(account, str) or not account):
        yield OptionProblem("account", _("must be the name of an account"), _("Write a name, or remove the option."))
    is_integer = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_integer or not MIN_PRIORITY <= priority <= MAX_PRIORITY:  # type: ignore[operator]
        message = _("must be an integer from %(least)d to %(most)d", least=MIN_PRIORITY, most=MAX_PRIORITY)
        yield OptionProblem("priority", message, _("The default is 0; a higher priority is sent first."))
    if expires_after is not None and not _is_duration(expires_after):
        message = _('must be a duration: seconds, a timedelta, or text like "30s", "10m", "6h" or "5d"')
        yield OptionProblem("expires_after", message, _("Remove the option if messages must not expire."))
    if on_unknown not in (None, "", "retry", "hold"):
        yield OptionProblem(
            "on_unknown", _('must be "retry" or "hold"'), _("Remove the option to use the setting ON_UNKNOWN.")
        )


def account_of_smtp_options(given: Mapping[str, object], *, alias: str | None, account: object) -> str:
    """The account that options of Django's SMTP backend mean; empty where none is given.

    They may only say what the settings say: an account is a row that every worker reads, not a value of one call.

    Raises:
        ValueError: they say something else (``send_mail(auth_user=…)``, ``get_connection(host=…)``), or stand beside
            the option ``account``.  The text holds no value.
    """
    said = {name: value for name, value in given.items() if value is not None and value != ""}
    if not said:
        return ""
    names = ", ".join(sorted(said))
    if account:
        raise ValueError(f"options {names}: they name a server, and the option 'account' names another; remove one")
    name = alias or DJANGO_ACCOUNT
    declared = outbox_settings().accounts.get(name)
    if declared is None or any(declared.options.get(option) != value for option, value in said.items()):
        raise ValueError(
            f"options {names}: the outbox sends over accounts that every worker knows, not over a server or user that "
            "one call names; declare an account in PRX_EMAIL[\"ACCOUNTS\"], and name it by the option 'account' or by "
            "message.outbox_account"
        )
    return name


def outbox_options(path: object) -> frozenset[str]:
    """The names that OPTIONS may contain; empty for other backends and those that cannot be imported."""
    try:
        backend = import_string(path) if isinstance(path, str) else None
    except ImportError:
        return frozenset()
    options: object = getattr(backend, "outbox_options", None)
    return options if isinstance(options, frozenset) else frozenset()


def _is_duration(value: object) -> bool:
    try:
        return bool(parse_duration(value))
    except ValueError:
        return False
