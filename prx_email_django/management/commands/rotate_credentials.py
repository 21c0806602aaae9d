"""Encrypts the stored secrets with the first key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from prx_email_django.management._common import plain_errors
from prx_email_django.store.rotation import Rotation, rotate_secrets, stored_secrets


class Command(BaseCommand):
    """``rotate_credentials``: exit code 1 if a secret cannot be decrypted with any key."""

    help = (
        "Encrypt every stored secret again with the first key of CREDENTIAL_KEYS (or SECRET_KEY). "
        "It can be interrupted and repeated; workers may keep running."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and change nothing")
        parser.add_argument("--no-progress", action="store_true", help="show no progress bar")

    def handle(self, **options: Any) -> None:
        """Rotate, and tell how many secrets were encrypted anew, were current, or cannot be decrypted."""
        with plain_errors():
            done = self._rotate(dry_run=options["dry_run"], quiet=options["no_progress"])
        verb = "would be encrypted" if options["dry_run"] else "encrypted"
        self.stdout.write(f"{done.rotated} {verb} with the first key, {done.current} already were")
        for row, name in done.unreadable:
            self.stderr.write(f"{row}: {name} cannot be decrypted with the present keys")
        if done.unreadable:
            raise CommandError("Add the key with which they were encrypted, or enter these secrets again.")

    def _rotate(self, *, dry_run: bool, quiet: bool) -> Rotation:
        with tqdm(total=stored_secrets(), unit="rows", disable=True if quiet else None) as bar:
            return rotate_secrets(dry_run=dry_run, progress=bar.update)
