"""Account fields of the accounts that the settings declare: made, validated and compared with rows.

An ``Account`` that is read from the database has the values of the settings at once (``apply_settings``), so that no
reader ever sees older ones.  ``store.declared`` writes them to the row.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.functional import Promise
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.declared import DeclaredAccount
from prx_email_django.conf.reader import secret_fingerprints
from prx_email_django.models.derived import DerivedField
from prx_email_django.models.encrypted import EncryptedTextField, InSettings
from prx_email_django.models.presets import preset_fields
from prx_email_django.rules.spelling import closest
from prx_email_django.rules.text import shown_name
from prx_email_django.rules.words import Words
from prx_email_django.rules.words import words as _

#: ``Account.source`` of an account that the settings declare.
SETTINGS = "settings"
#: Columns that no declaration names.
_OWN = frozenset({"id", "name", "source", "created_at", "updated_at"})
#: What of a value is recognised in a message, whatever is quoted or escaped there.
_PIECE = re.compile(r"\w+")
#: What Django's SMTP backend calls a field of an account.
_DJANGO_NAMES = {
    "username": "user",
    "use_tls": "security",
    "use_ssl": "security",
    "ssl_certfile": "tls_cert_file",
    "ssl_keyfile": "tls_key_file",
}
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A mistake in a declared account: where it is written (``path``), what is wrong, and what to write if known."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"

    @property
    def text(self) -> Words:
        """The path and the message, to be translated where they are read."""
        return _("%(path)s: %(problem)s", path=self.path, problem=self.message)


@dataclass(frozen=True, slots=True)
class DeclaredFields:
    """What a declaration means: the value of every column, or the problems that leave none."""

    declared: DeclaredAccount
    columns: Mapping[str, Any] = field(repr=False, default_factory=dict)
    problems: tuple[FieldProblem, ...] = ()
    #: Secret field -> the fingerprints that an unchanged row may have.
    fingerprints: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)


_made: weakref.WeakKeyDictionary[DeclaredAccount, DeclaredFields] = weakref.WeakKeyDictionary()


def declared_fields(name: str) -> DeclaredFields | None:
    """What the settings declare for this name; None: nothing.

    Raises:
        ImproperlyConfigured: the settings are invalid as a whole.
    """
    declared = outbox_settings().accounts.get(name)
    if declared is None:
        return None
    if declared not in _made:
        _made[declared] = _make(declared)
    return _made[declared]


def settings_problem(account: Any) -> str:
    """Why the account must not send, since the settings say so; empty if nothing does."""
    if account.source != SETTINGS:
        return ""
    made = declared_fields(account.name)
    if made is None:
        return _("the settings do not declare this account any more")
    return made.problems[0].text if made.problems else ""


def timeout_of(account: Any) -> float | None:
    """Seconds for a command, where the declaration has a time of its own."""
    declared = outbox_settings().accounts.get(account.name) if account.source == SETTINGS else None
    return declared.timeout if declared else None


def apply_settings(account: Any) -> dict[str, bool]:
    """Give an account that was read from the database the values of the settings.

    Returns the columns that differ, each with whether its meaning has changed: a fingerprint under an older SECRET_KEY
    differs, and means the same.
    """
    held = account.__dict__
    made = declared_fields(held["name"]) if held.get("source") == SETTINGS and "name" in held else None
    if made is None or made.problems:
        return {}
    differing: dict[str, bool] = {}
    for name, wanted in made.columns.items():
        if name not in held:
            continue
        if held[name] != wanted:
            known = made.fingerprints.get(name, ())
            is_same = isinstance(held[name], InSettings) and held[name].fingerprint in known
            differing[name] = not is_same
        held[name] = wanted
    return differing


@sensitive_variables()
def _make(declared: DeclaredAccount) -> DeclaredFields:
    made = _checked(declared)
    if not made.problems:
        return made
    written = {declared.path_of(name): (name, value) for name, value in declared.fields.items()}
    problems = []
    for found in made.problems:
        name, value = written.get(found.path, ("", ""))
        is_secret = declared.is_url or (name != "preset" and "://" in str(value))
        problems.append(without_value(found, name, value) if is_secret else found)
    return DeclaredFields(declared, problems=tuple(problems))


@sensitive_variables()
def without_value(found: FieldProblem, name: str, value: object) -> FieldProblem:
    """The problem without the value: a URL may hold a password, and be cut where that is not percent-encoded.

    Host and security stand before the query of a URL, and are shown.
    """
    pieces = _PIECE.findall(str(value).lower())
    is_before_query = name in ("host", "security") and "://" not in str(value)
    if not name or is_before_query or not any(piece in found.message.lower() for piece in pieces):
        return found
    column = next((column for column in _columns() if column.name == name), None)
    choices = ", ".join(str(value) for value, _label in (column and column.choices) or () if value)
    return FieldProblem(
        found.path,
        _("has a value that it cannot have. The value is not shown: it may be a piece of a password."),
        _("Values are %(names)s.", names=choices) if choices else found.hint,
    )


@sensitive_variables()
def _checked(declared: DeclaredAccount) -> DeclaredFields:
    if declared.problem is not None:
        return DeclaredFields(declared, problems=(FieldProblem(*declared.problem),))
    if unknown := tuple(_unknown(declared)):
        return DeclaredFields(declared, problems=unknown)
    try:
        given = _with_preset(declared)
    except ValueError as error:
        return DeclaredFields(declared, problems=(FieldProblem(declared.path_of("preset"), error.args[0]),))
    except ValidationError as error:
        return DeclaredFields(declared, problems=tuple(_problems(declared, error)))
    return _validated(declared, given)


@sensitive_variables()
def _with_preset(declared: DeclaredAccount) -> dict[str, Any]:
    given: dict[str, Any] = dict(declared.fields)
    if "preset" not in given:
        return given
    return preset_fields(str(given.pop("preset")), **given)


def _unknown(declared: DeclaredAccount) -> Iterator[FieldProblem]:
    known = {column.name for column in _columns()}
    own = {"preset", "region"} if "preset" in declared.fields else {"preset"}
    for name in declared.fields:
        if name in known | own:
            continue
        meant = field_meant(str(name), known - declared.fields.keys())
        hint = _("Fields are %(names)s; and preset.", names=", ".join(sorted(known)))
        if meant:
            hint = _('Did you mean "%(meant)s"?', meant=meant)
        if declared.is_url:  # the name may be a piece of a password that is not percent-encoded
            yield FieldProblem(declared.path, _("has a query that names what is no field of an account."), hint)
        else:
            yield FieldProblem(declared.path_of(shown_name(str(name))), _("is not a field of an account."), hint)


def field_meant(name: str, fields: Collection[str]) -> str:
    """The field among ``fields`` that ``name`` probably means; empty if there is none."""
    meant = _DJANGO_NAMES.get(name.lower(), "")
    return meant if meant in fields else closest(name, sorted(fields))


def _columns() -> list[models.Field[Any, Any]]:
    account = apps.get_model("prx_email_django", "Account")
    return [column for column in account._meta.concrete_fields if column.name not in _OWN]


@sensitive_variables()
def _validated(declared: DeclaredAccount, given: Mapping[str, Any]) -> DeclaredFields:
    model = apps.get_model("prx_email_django", "Account")
    account: Any = model(name=declared.name, source=SETTINGS)
    secrets = {column.name for column in _columns() if isinstance(column, EncryptedTextField)}
    fingerprints: dict[str, tuple[str, ...]] = {}
    problems: list[FieldProblem] = []
    for name, written in given.items():
        value = str(written) if isinstance(written, Promise) else written
        if name not in secrets:
            problem = _assigned(account, model._meta.get_field(name), value)
            if problem:
                problems.append(FieldProblem(declared.path_of(name), *problem))
        elif not isinstance(value, str):
            text = _("must not be None.") if value is None else _("must be text.")
            hint = _("Write the secret, env:NAME or file:/path.")
            problems.append(FieldProblem(declared.path_of(name), text, hint))
        elif value:
            fingerprints[name] = secret_fingerprints(value)
            setattr(account, name, InSettings(fingerprints[name][0], value))
    if problems:
        return DeclaredFields(declared, problems=tuple(problems))
    try:
        account.full_clean(exclude=secrets, validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        return DeclaredFields(declared, problems=tuple(_problems(declared, error)))
    columns = {column.name: column.pre_save(account, add=True) for column in _columns()}
    return DeclaredFields(declared, columns=columns, fingerprints=fingerprints)


def _assigned(account: Any, column: Any, value: Any) -> tuple[str, ...]:
    """Assign the value; return what is wrong with it and perhaps a hint, or nothing."""
    if value is None and not column.null and not isinstance(column, DerivedField):
        return _("must not be None."), _("Is a variable of the environment not set?")
    if isinstance(column, models.CharField) and not isinstance(value, str | Promise | PurePath | None):
        return (_("must be text."),)
    try:
        setattr(account, column.name, converted(column, value))
    except ValidationError as error:
        return (" ".join(error.messages),)
    return ()


def converted(column: Any, value: Any) -> Any:
    """The words of a URL's query for a boolean; a path as its text; a derived column's None as not given.

    Every other value is converted by the column itself.

    Raises:
        ValidationError: the column would take the value for another one (True for 1), or fail without naming itself.
    """
    if isinstance(column, models.BooleanField) and isinstance(value, str):
        word = value.strip().lower()
        return word in _TRUE if word in _TRUE | _FALSE else value
    if isinstance(value, PurePath | Promise):
        return str(value)
    if isinstance(column, DerivedField) and value is None:
        return ""
    is_number = isinstance(value, bool | float) and isinstance(column, models.IntegerField)
    is_no_time = isinstance(column, models.DateTimeField) and not isinstance(value, str | datetime | None)
    if is_number or is_no_time:
        raise ValidationError(column.error_messages["invalid"], params={"value": value})
    return value


def _problems(declared: DeclaredAccount, error: ValidationError) -> Iterator[FieldProblem]:
    for name, texts in error.message_dict.items():
        is_field = name == "region" or name in {column.name for column in _columns()}
        path = declared.path_of(name) if is_field else declared.path
        yield FieldProblem(path, " ".join(dict.fromkeys(texts)))
