"""``manage.py outbox_adopt``: a copied database becomes a life of its own."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from prx_email_django import api
from prx_email_django.conf import outbox_settings
from prx_email_django.management._common import plain_errors
from prx_email_django.store.adopt import ID_JUMP
from prx_email_django.store.outbox import outbox_state


class Command(BaseCommand):
    """See ``help``."""

    help = (
        "For a copied or restored database: puts every unsent message at rest (code “adopted”), so that it mails "
        "nobody whom the original may have mailed, lets ids jump ahead, and stores the setting INSTANCE as the owner. "
        "Messages that should go out from here are requeued one by one: requeue_outbox."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Tell what is going to happen, adopt, and tell how many messages rest now."""
        with plain_errors():
            name = outbox_settings().instance
            owner = f"the instance “{name}”" if name else "no instance (the setting INSTANCE is empty)"
            before = outbox_state().instance
            self.stdout.write(
                f"this database belongs to {f'the instance “{before}”' if before else 'no instance'} and is going to "
                f"belong to {owner}: whatever is unsent comes to rest, and ids jump ahead by {ID_JUMP}"
            )
            changed = api.adopt_outbox()
            self.stdout.write(f"put {changed} at rest; this database now belongs to {owner}")
