"""Django settings of the candidates; ``measurement`` describes the environment variables."""

from __future__ import annotations

import os
import tempfile
from typing import Any

NAME = os.environ["BENCH_DATABASE"]
SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
POSTGRESQL: dict[str, Any] = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ.get("POSTGRES_HOST", "127.0.0.1"),
    "PORT": int(os.environ.get("POSTGRES_PORT", "5432")),
    "USER": os.environ.get("POSTGRES_USER", "postgres"),
    "PASSWORD": os.environ.get("POSTGRES_PASSWORD", ""),
}
MARIADB: dict[str, Any] = {
    "ENGINE": "django.db.backends.mysql",
    "OPTIONS": {"charset": "utf8mb4"},
    "HOST": os.environ.get("MARIADB_HOST", "127.0.0.1"),
    "PORT": os.environ.get("MARIADB_PORT", "3306"),
    "USER": os.environ.get("MARIADB_USER", "root"),
    "PASSWORD": os.environ.get("MARIADB_PASSWORD", ""),
}
_SERVER = MARIADB if os.environ.get("BENCH_ENGINE") == "mariadb" else POSTGRESQL
DATABASES = {"default": {**(SQLITE if NAME.endswith(".sqlite3") else _SERVER), "NAME": NAME}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "prx_email_django", "post_office", "mailer"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
SECRET_KEY = "a key for benchmarks only"  # noqa: S105  (protects nothing)
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {name: {"level": "WARNING"} for name in ("prx_email_django", "post_office", "mailer")},
}

PRX_EMAIL: dict[str, Any] = {"AUTO_SCHEDULE": False}

EMAIL_HOST, EMAIL_PORT = os.environ["BENCH_HOST"], int(os.environ["BENCH_PORT"])
POST_OFFICE: dict[str, Any] = {"LOCK_FILE_NAME": f"post_office_{NAME.rpartition('/')[2]}"}
if os.environ.get("BENCH_TUNED"):
    POST_OFFICE |= {"BATCH_SIZE": 1000, "THREADS_PER_PROCESS": int(os.environ["BENCH_CONNECTIONS"]), "LOG_LEVEL": 1}
MAILER_LOCK_PATH = f"{tempfile.gettempdir()}/mailer_{NAME.rpartition('/')[2]}"
