"""``manage.py outbox_adopt``: makes this installation the owner of a copied database."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.management._common import OutboxCommand, plain_errors
from prx_email_django.store.adopt import ID_JUMP, unsent
from prx_email_django.store.outbox import is_copy, outbox_state


class Command(OutboxCommand):
    """Calls ``api.adopt_outbox``."""

    help = gettext_noop(
        "For a copied or restored database; any other is refused. Puts every unsent message at rest "
        "(code “adopted”), because the original installation may have sent it; increases the next ids, "
        "because a Message-ID must not occur twice; and stores the setting INSTANCE as the owner. Use "
        "requeue_outbox for messages that this installation should send. On a terminal it asks first; "
        "elsewhere it needs --yes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --dry-run and --yes."""
        parser.add_argument("--dry-run", action="store_true", help=_("change nothing, only print what would happen"))
        parser.add_argument("--yes", action="store_true", help=_("do not ask"))

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what will happen, ask, adopt the database, and print the number of messages put at rest."""
        with plain_errors():
            state, name = outbox_state(), outbox_settings().instance
            if not is_copy(state):
                raise CommandError(_not_copied(state.instance))
            owner = (
                _("the instance “%(name)s”") % {"name": name}
                if name
                else _("no instance (the setting INSTANCE is empty)")
            )
            self.stdout.write(
                _(
                    "this database belongs to the instance “%(instance)s” and will belong to %(owner)s; every unsent "
                    "message (%(count)s) is put at rest, and the next ids increase by %(jump)s"
                )
                % {"instance": state.instance, "owner": owner, "count": unsent().count(), "jump": ID_JUMP}
            )
            if options["dry_run"]:
                return
            if not options["yes"]:
                self._ask()
            changed = api.adopt_outbox()
            self.stdout.write(
                _("put %(changed)s at rest; this database now belongs to %(owner)s")
                % {"changed": changed, "owner": owner}
            )

    def _ask(self) -> None:
        if not sys.stdin.isatty():
            raise CommandError(_("Nothing was adopted: there is no terminal to ask on. Give --yes if this is a copy."))
        self.stdout.write(_("Type “yes” to adopt this database: "), ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip() != "yes":
            raise CommandError(_("Nothing was adopted."))


def _not_copied(instance: str) -> str:
    """Return why this database is not adopted, and what to do if it is a copy all the same."""
    if instance:
        return _(
            "Nothing was adopted: this database belongs to the instance “%(instance)s”, as the setting "
            "INSTANCE says, so nothing was copied. If it is a copy or a restored backup, change INSTANCE "
            "first."
        ) % {"instance": instance}
    return _(
        "Nothing was adopted: this database has stored no INSTANCE, so it cannot be known as a copy. If "
        "it is one, put its messages at rest with cancel_outbox before anything drains it."
    )
