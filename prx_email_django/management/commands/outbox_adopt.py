"""``manage.py outbox_adopt``: makes this installation the owner of a copied database."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.management._common import plain_errors
from prx_email_django.store.adopt import ID_JUMP
from prx_email_django.store.outbox import outbox_state


class Command(BaseCommand):
    """Calls ``api.adopt_outbox``."""

    help = (
        "For a copied or restored database. Puts every unsent message at rest (code “adopted”), because the original "
        "installation may have sent it; increases the next ids, because a Message-ID must not occur twice; and stores "
        "the setting INSTANCE as the owner. Use requeue_outbox for messages that this installation should send."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what will happen, adopt the database, and print the number of messages put at rest."""
        with plain_errors():
            name = outbox_settings().instance
            owner = f"the instance “{name}”" if name else "no instance (the setting INSTANCE is empty)"
            before = outbox_state().instance
            self.stdout.write(
                f"this database belongs to {f'the instance “{before}”' if before else 'no instance'} and will belong "
                f"to {owner}; every unsent message is put at rest, and the next ids increase by {ID_JUMP}"
            )
            changed = api.adopt_outbox()
            self.stdout.write(f"put {changed} at rest; this database now belongs to {owner}")
