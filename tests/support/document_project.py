"""A temporary Django project in which the blocks of a page are run, in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.documents import ROOT, Block

BASE_SETTINGS = """
import os
from datetime import timedelta
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "a key for tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_q",
    "prx_email_django",
    "shop",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
Q_CLUSTER = {"name": "shop", "orm": "default", "retry": 600, "timeout": 300, "max_attempts": 5}
PRX_EMAIL = {"TRANSPORT": "memory", "DEFAULT_ACCOUNT": "main", "INSTANCE": "docs"}
"""

MAIL_SETTINGS = """
import django

if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": "prx_email_django.backends.OutboxEmailBackend", "OPTIONS": {"account": "main"}},
    }
else:
    EMAIL_BACKEND = "prx_email_django.backends.OutboxEmailBackend"
"""

MODELS = """
from django.db import models


class Order(models.Model):
    email = models.EmailField()
    paid = models.BooleanField(default=False)
"""

#: The part of Celery that a page uses: tests do not depend on Celery.
CELERY = """
def shared_task(**options):
    def declare(function):
        function.delay = function
        return function

    return declare
"""

MANAGE = """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
"""

#: Runs the Python blocks of a page in one namespace, and the commands between them; prints the output of each as JSON.
DRIVER = """
import contextlib, io, json, os, subprocess, sys, warnings

warnings.simplefilter("error")
import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()
namespace, outputs = {"__name__": "page"}, []
for place, language, text in json.load(sys.stdin):
    if language == "python":
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(text, place, "exec"), namespace)
        outputs.append(out.getvalue())
    else:
        run = subprocess.run(["sh", "-euc", text], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{place} ended with {run.returncode}:\\n{run.stdout}{run.stderr}")
        outputs.append(run.stdout)
    print(f"{place} passed", file=sys.stderr)
json.dump(outputs, sys.stdout)
"""

#: Seconds for one process.
TIMEOUT = 110


class Project:
    """The project; ``python`` and ``manage.py`` work in it as they do for a reader.

    ``files`` are blocks that are written to files; ``database`` is the project whose database is copied.
    """

    def __init__(self, folder: Path, files: Sequence[Block] = (), *, database: Project | None = None) -> None:
        self.folder = folder
        self.write("settings.py", BASE_SETTINGS + MAIL_SETTINGS)
        self.write("urls.py", "urlpatterns = []\n")
        self.write("manage.py", MANAGE)
        self.write("pytest.ini", "[pytest]\n")  # else pytest would use an ini file of a parent folder
        self.write("driver.py", DRIVER)
        self.write("celery.py", CELERY)
        self.write("shop/__init__.py", "")
        self.write("shop/models.py", MODELS)
        self.write("bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (folder / "bin/python").chmod(0o755)
        for block in files:
            self.write(block.path, block.text)
        for path in database.folder.glob("db.sqlite3*") if database else ():
            shutil.copy(path, folder)

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, given: str = "", settings: str = "settings") -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the project; ``given`` is its standard input."""
        paths = [str(self.folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        inherited = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        env = {
            **inherited,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "DJANGO_SETTINGS_MODULE": settings,
            "OUTBOX_INSTANCE": "docs",
        }
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            input=given,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=env,
            timeout=TIMEOUT,
            check=False,
        )

    def manage(self, *arguments: str, settings: str = "settings") -> subprocess.CompletedProcess[str]:
        """Run ``manage.py``."""
        return self.run("manage.py", *arguments, settings=settings)

    def run_page(self, blocks: Sequence[Block]) -> dict[str, str]:
        """Run the blocks of a page in order; return the output of each (page and line -> text)."""
        given = json.dumps([(str(block), block.language, block.text) for block in blocks])
        ended = self.run("driver.py", given=given)
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        return dict(zip(map(str, blocks), json.loads(ended.stdout), strict=True))
