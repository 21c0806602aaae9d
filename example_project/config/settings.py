"""Settings of the example: the settings that a project needs to use the outbox, on SQLite.

The example writes files only to ``example_project/var``, or to the folder that ``EXAMPLE_VAR`` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("EXAMPLE_VAR", ROOT / "var")).resolve()
#: Maildir with every message that the example's mail server accepted.
INBOX = VAR / "inbox"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "prx_email_django",
    "example_project.shop",
]

# Without WAL and IMMEDIATE, workers and web processes block each other ("database is locked").
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR / "example.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

PRX_EMAIL = {
    "INSTANCE": "example",
    "DEFAULT_ACCOUNT": "orders",
    "MESSAGE_ID_DOMAIN": "shop.example",
    # The first retry is due after 2 s instead of 10, to make the demo shorter.
    "BASE_BACKOFF": "1s",
    "TLS_CA_FILE": VAR / "ca.pem",
    # `make serve` runs flush_outbox --loop, which notices each commit by itself: no wake-up is needed.
    "WAKE": "",
}

# Mail that Django itself sends (password resets, send_mail) is queued too.
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": "prx_email_django.backends.OutboxEmailBackend", "OPTIONS": {"account": "orders"}},
    }
else:
    EMAIL_BACKEND = "prx_email_django.backends.OutboxEmailBackend"
DEFAULT_FROM_EMAIL = "Lantern Books <orders@shop.example>"

# The log goes to a file, to keep the terminal readable.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": VAR / "outbox.log", "delay": True, "formatter": "line"},
    },
    "loggers": {
        "prx_email_django": {"handlers": ["file"], "level": "INFO", "propagate": False},
    },
}

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
ROOT_URLCONF = "example_project.config.urls"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
SECRET_KEY = "the key of the example, not a secret"
