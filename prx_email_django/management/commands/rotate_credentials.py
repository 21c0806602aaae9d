"""Encrypts the stored secrets with the first key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from tqdm import tqdm

from prx_email_django.management._common import OutboxCommand, plain_errors
from prx_email_django.store.rotation import Rotation, rotate_secrets, stored_secrets


class Command(OutboxCommand):
    """``rotate_credentials``: exit code 1 if a secret cannot be decrypted with any key."""

    help = gettext_noop(
        "Encrypt every stored secret again with the first key of CREDENTIAL_KEYS (or SECRET_KEY). It can "
        "be interrupted and repeated; workers may keep running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--dry-run", action="store_true", help=_("tell what would be done, and change nothing"))
        parser.add_argument("--no-progress", action="store_true", help=_("show no progress bar"))

    def handle(self, **options: Any) -> None:
        """Rotate, and tell how many secrets were encrypted anew, were current, or cannot be decrypted."""
        with plain_errors():
            done = self._rotate(dry_run=options["dry_run"], quiet=options["no_progress"])
        text = (
            _("%(rotated)d would be encrypted with the first key, %(current)d already were")
            if options["dry_run"]
            else _("%(rotated)d encrypted with the first key, %(current)d already were")
        )
        self.stdout.write(text % {"rotated": done.rotated, "current": done.current})
        for row, name in done.unreadable:
            self.stderr.write(
                _("%(row)s: %(name)s cannot be decrypted with the present keys") % {"row": row, "name": name}
            )
        if done.unreadable:
            raise CommandError(_("Add the key with which they were encrypted, or enter these secrets again."))

    def _rotate(self, *, dry_run: bool, quiet: bool) -> Rotation:
        with tqdm(total=stored_secrets(), unit=_("rows"), disable=True if quiet else None) as bar:
            return rotate_secrets(dry_run=dry_run, progress=bar.update)
