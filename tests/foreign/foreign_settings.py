"""Settings for Django's own mail tests: Django's defaults, this app, and a database."""

from __future__ import annotations

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "prx_email_django"]
SECRET_KEY = "a key for tests only"
USE_TZ = True
PRX_EMAIL = {"DEFAULT_ACCOUNT": "foreign", "WAKE": ""}
