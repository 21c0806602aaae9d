"""Arguments of ``outbox_account``: the fields of an account from a preset or a URL, ``--set`` and ``--secret``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from getpass import getpass
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf.account_url import parse_account_url
from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.declared import FieldProblem, converted, field_meant, without_value
from prx_email_django.models.presets import preset_fields
from prx_email_django.rules.references import literal, reference
from prx_email_django.rules.words import in_words
from prx_email_django.store.accounts import AccountChange

_NOT_SET = frozenset({"id", "name", "source", "created_at", "updated_at"})
_FIELDS = {column.name: column for column in Account._meta.concrete_fields if column.name not in _NOT_SET}
#: What ``--set`` may name.
SETTABLE = sorted(_FIELDS.keys() - set(SECRET_FIELDS))
_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)


@sensitive_variables()
def account_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that the arguments name.

    Raises:
        CommandError: an argument is wrong; the text holds no secret.
        ValidationError: the preset cannot be used so.
    """
    given = _set_fields(options["set"] or (), has_preset=bool(options["preset"]))
    given |= _secrets(options["secret"] or ())
    if options["preset"]:
        try:
            given = preset_fields(options["preset"], **given)
        except ValueError as error:
            raise CommandError(f"--preset: {in_words(error, _)}") from None
    elif options["url"]:
        given = _url_fields(options["url"]) | given
    return {name: converted(_FIELDS[name], value) for name, value in given.items()}


@sensitive_variables()
def _url_fields(url: str) -> dict[str, Any]:
    try:
        fields = parse_account_url(url)
    except ValueError as error:
        raise CommandError(f"--url {in_words(error, _)}") from None
    for name in fields.keys() - _FIELDS.keys():
        # Not by its name: that may be a piece of a password that is not percent-encoded.
        text = _("--url has a query that names what is no field of an account. %(hint)s")
        raise CommandError(text % {"hint": _meant(name, list(_FIELDS))})
    for name in SECRET_FIELDS[1:]:
        if fields.get(name) and reference(str(fields[name])) is None:
            raise CommandError(_in_sight("--url", name))
    return dict(fields)


@sensitive_variables()
def shows_password(url: str) -> bool:
    """Whether the URL holds a password itself, and no reference."""
    password = str(parse_account_url(url).get("password", ""))
    return bool(password) and reference(password) is None


def _in_sight(option: str, name: str) -> str:
    source = _("--secret %(name)s=env:NAME, --secret %(name)s=file:/path or --secret %(name)s=-") % {"name": name}
    text = _("%(option)s cannot set %(name)s: a command line is visible to others. Use %(source)s.")
    return text % {"option": option, "name": name, "source": source}


@sensitive_variables()
def _set_fields(arguments: Iterable[str], *, has_preset: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in SECRET_FIELDS:
            raise CommandError(_in_sight("--set", name))
        if not equals:
            raise CommandError(_("--set needs a field and a value: --set field=value"))
        if name != "region" or not has_preset:
            _known(name, "--set", SETTABLE)
        if name in fields:
            raise CommandError(_("--set names %(name)s twice.") % {"name": name})
        fields[name] = value
    return fields


def _meant(name: str, known: list[str]) -> str:
    if meant := field_meant(name, known):
        return _("Did you mean %(meant)s?") % {"meant": meant}
    return _("Fields are %(names)s.") % {"names": ", ".join(known)}


def _known(name: str, option: str, known: list[str]) -> None:
    if name in known:
        return
    if not name.isidentifier():
        raise CommandError(_("%(option)s must name fields of an account.") % {"option": option})
    raise CommandError(
        _("%(option)s names %(name)s, which is not a field that it can set. %(hint)s")
        % {"option": option, "name": name, "hint": _meant(name, known)}
    )


@sensitive_variables()
def _secrets(arguments: Iterable[str]) -> dict[str, str]:
    """Secret field -> a reference, or the text from standard input."""
    fields: dict[str, str] = {}
    for argument in arguments:
        named = _NAMED.fullmatch(argument)
        name, source = named.groups() if named else ("password", argument)
        if name not in SECRET_FIELDS:
            raise CommandError(_("--secret sets one of %(names)s.") % {"names": ", ".join(SECRET_FIELDS)})
        if name in fields:
            raise CommandError(_("--secret names %(name)s twice.") % {"name": name})
        if source != "-" and reference(source) is None:
            raise CommandError(
                _(
                    "--secret for %(name)s must be env:NAME, file:/path, or - for standard input: a secret on the "
                    "command line is visible to others."
                )
                % {"name": name}
            )
        fields[name] = source
    from_input = [name for name, source in fields.items() if source == "-"]
    if len(from_input) > 1:
        raise CommandError(_("Only one --secret can come from standard input."))
    return fields | {name: _from_input(name) for name in from_input}


@sensitive_variables()
def _from_input(name: str) -> str:
    text = getpass(f"{name}: ") if sys.stdin.isatty() else re.sub(r"\r?\n\Z", "", sys.stdin.read())
    if not text:
        raise CommandError(_("Standard input holds no secret for %(name)s.") % {"name": name})
    is_taken_otherwise = reference(text) is not None or literal(text) != text
    return f"\\{text}" if is_taken_otherwise else text


def described(change: AccountChange) -> Iterator[str]:
    """One line for each field that changed, without a secret."""
    for name, (before, after) in sorted(change.changed.items()):
        if name in SECRET_FIELDS:
            named = reference(after) if after else None
            hidden = _("set, not shown") if after else _("cleared")
            yield f"{name}: {named or hidden}"
        elif change.created:
            yield f"{name}: {after}"
        else:
            yield f"{name}: {_or_empty(before)} → {_or_empty(after)}"


def _or_empty(value: object) -> object:
    return value if value != "" else _("empty")


def lacks_sign_in(error: ValidationError) -> bool:
    """Whether only values are missing that a sign-in gives; only an application that signs in itself needs a tenant."""
    return hasattr(error, "error_dict") and error.error_dict.keys() <= {"oauth_refresh_token", "oauth_tenant"}


@sensitive_variables()
def problems(error: ValidationError, *, of_url: Mapping[str, object]) -> str:
    """The errors, one on a line, each with its field; without the values of ``of_url``, the fields of a URL."""
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    lines: list[str] = []
    for name, texts in error.message_dict.items():
        found = FieldProblem("", " ".join(texts))
        if name in of_url:
            found = without_value(found, name, of_url[name])
        parts = [] if name == NON_FIELD_ERRORS else [f"{name}:"]
        lines.append(" ".join([*parts, *(in_words(text, _) for text in (found.message, found.hint) if text)]))
    return "\n".join(lines)
