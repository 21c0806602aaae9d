"""Settings of the test project.  Environment variables choose the database and the broker.

``DATABASE``            ``sqlite`` (default), ``postgresql`` or ``mariadb``
``DATABASE_NAME``       the test database; default: a name with the process id, so that two runs never share one
``POSTGRES_HOST`` …     ``_PORT``, ``_USER``, ``_PASSWORD``; the same with ``MARIADB_``; default: the local server
``WITHOUT_DJANGO_Q=1``  leaves django-q2 out of INSTALLED_APPS
``Q_BROKER=redis``      django-q2 on ``REDIS_URL`` instead of the database

The database and its test database have the same name, and the name is put into the environment: a process that a test
starts with these settings uses the database of that test.  Each worker of pytest-xdist adds its own id to the name.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

DATABASE = os.environ.get("DATABASE", "sqlite")


def _database_name() -> str:
    run = f"prx_test_{os.getpid()}"
    default = str(Path(tempfile.gettempdir(), f"{run}.sqlite3")) if DATABASE == "sqlite" else run
    name = os.environ.get("DATABASE_NAME", default)
    suffix = f"_{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    path = Path(name)
    # A process that a worker has started inherits a name that has the suffix already.
    if suffix != "_" and not path.stem.endswith(suffix):
        name = str(path.with_stem(f"{path.stem}{suffix}"))
    os.environ["DATABASE_NAME"] = name
    return name


def _server(prefix: str, port: int, user: str) -> dict[str, Any]:
    return {
        "HOST": os.environ.get(f"{prefix}_HOST", "127.0.0.1"),
        "PORT": int(os.environ.get(f"{prefix}_PORT", port)),
        "USER": os.environ.get(f"{prefix}_USER", user),
        "PASSWORD": os.environ.get(f"{prefix}_PASSWORD", ""),
    }


def _sqlite() -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _postgresql() -> dict[str, Any]:
    # Tests kill workers but never the database server, so no commit needs to wait for the disk.
    return {
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {"options": "-c synchronous_commit=off"},
        **_server("POSTGRES", 5432, "postgres"),
    }


def _mariadb() -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.mysql",
        "OPTIONS": {"charset": "utf8mb4"},
        **_server("MARIADB", 3306, "root"),
    }


_engine = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}[DATABASE]()
DATABASE_NAME = _database_name()
DATABASES = {"default": {**_engine, "NAME": DATABASE_NAME, "TEST": {"NAME": DATABASE_NAME}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

WITHOUT_DJANGO_Q = os.environ.get("WITHOUT_DJANGO_Q", "") == "1"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *([] if WITHOUT_DJANGO_Q else ["django_q"]),
    "prx_email_django",
    "tests.support.flush",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
SECRET_KEY = "a key for tests only"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = True

PRX_EMAIL: dict[str, Any] = {}

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
_broker = {"redis": REDIS_URL} if os.environ.get("Q_BROKER") == "redis" else {"orm": "default"}
Q_CLUSTER = {
    # Contains the database's name, so that runs side by side do not take each other's tasks from Redis.
    "name": f"outbox_{Path(DATABASE_NAME).stem}",
    "workers": 1,
    "timeout": 90,
    "retry": 1200,
    "poll": 0.2,
    **_broker,
}
