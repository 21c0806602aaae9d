"""A project that has little more than this app: no admin, no sessions, no django-q2."""

from __future__ import annotations

import subprocess
import sys

from tests.support.patience import PATIENCE

SETTINGS = """
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["prx_email_django"], SECRET_KEY="for a test", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "makemigrations", "--check", "--dry-run"])
"""


def test_a_project_without_the_admin_needs_no_migration_of_its_own() -> None:
    """A model that only the admin imported was missing there: ``makemigrations`` deleted it, in this app's folder."""
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "No changes detected\n"), done.stdout + done.stderr
