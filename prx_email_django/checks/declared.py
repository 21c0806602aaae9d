"""Checks of the accounts that the settings declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks
from django.db import connections
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django.checks.accounts import has_accounts
from prx_email_django.checks.project import TAG, settings_in_force
from prx_email_django.conf.declared import as_mysql_compares
from prx_email_django.conf.references import absence
from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.declared import SETTINGS, DeclaredFields, declared_fields
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.words import in_words

_HINT_DJANGO = gettext_lazy(
    "https://github.com/prx-email/prx_email_django/blob/main/docs/start/switch.md says what Django’s own mail settings "
    "mean here, and what differs."
)
_HINT = gettext_lazy(
    "The form of an account in the admin names the same fields; "
    "https://github.com/prx-email/prx_email_django/blob/main/docs/reference/account.md describes them."
)


@checks.register(TAG)
def check_declared_accounts(**kwargs: Any) -> list[checks.CheckMessage]:
    """E009: an account that the settings declare has a field that cannot work; it sends nothing."""
    return [
        checks.Error(
            in_words(problem.text, _),
            hint=in_words(problem.hint, _) or str(_HINT_DJANGO if made.declared.options else _HINT),
            obj=made.declared.path,
            id="prx_email_django.E009",
        )
        for made in _declared()
        for problem in made.problems
    ]


@checks.register(TAG, deploy=True)
def check_references(**kwargs: Any) -> list[checks.CheckMessage]:
    """W007: a declared account refers to a secret that this process does not find.

    Only in a deployment: where an image is built, the secret is not there yet.
    """
    hint = _("Set the variable, or mount the file, in every process that sends mail; another process does not need it.")
    return [
        checks.Warning(
            _("%(path)s is a reference that names nothing here: %(absent)s.")
            % {"path": path, "absent": in_words(absent, _)},
            hint=hint,
            id="prx_email_django.W007",
        )
        for made in _declared()
        for path, absent in _absent(made)
    ]


@checks.register(checks.Tags.database)
def check_names_of_settings(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """E042: a person has made an account whose name the settings declare.  W042: the settings have lost an account."""
    if settings_in_force() is None or not has_accounts(databases):
        return []
    declared = {made.declared.name: made.declared for made in _declared()}
    rows = list(Account.objects.order_by("name").values_list("name", "source"))
    wanted = {_compared(name): made for name, made in declared.items()}
    typed = {name: wanted[_compared(name)] for name, source in rows if source != SETTINGS and _compared(name) in wanted}
    lost = [name for name, source in rows if source == SETTINGS and name not in declared]
    return [
        *(
            checks.Error(
                _(
                    "The account “%(name)s” is declared in %(path)s, and a person has made an account of this name, "
                    "which is used as it is."
                )
                % {"name": name, "path": made.path},
                hint=_(
                    "Rename one of them, or delete the account that a person made.  To keep its messages and let the "
                    'settings take over: Account.objects.filter(name="%(name)s").update(source="settings").'
                )
                % {"name": name},
                obj=made.path,
                id="prx_email_django.E042",
            )
            for name, made in typed.items()
        ),
        *(
            checks.Warning(
                _(
                    "The settings do not declare the account “%(name)s” any more: it sends nothing, and its messages "
                    "wait."
                )
                % {"name": name},
                hint=_("Declare it again; or cancel its messages, and delete it in the admin once they are purged."),
                obj=name,
                id="prx_email_django.W042",
            )
            for name in lost
        ),
    ]


def _compared(name: str) -> str:
    """The name as the outbox's database compares it."""
    return as_mysql_compares(name) if connections[outbox_alias()].vendor == "mysql" else name


def _declared() -> Iterator[DeclaredFields]:
    settings = settings_in_force()
    for name in settings.accounts if settings else ():
        if (made := declared_fields(name)) is not None:
            yield made


def _absent(made: DeclaredFields) -> Iterator[tuple[str, str]]:
    for name in SECRET_FIELDS:
        secret = made.columns.get(name)
        if secret and (absent := absence(secret.text)):
            yield made.declared.path_of(name), absent
