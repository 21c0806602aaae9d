"""django-allauth's settings for its own tests, plus this app."""

from __future__ import annotations

from tests.projects.account_only.settings import *  # noqa: F403
from tests.projects.account_only.settings import INSTALLED_APPS as _THEIRS

INSTALLED_APPS = [*_THEIRS, "prx_email_django"]
PRX_EMAIL = {"DEFAULT_ACCOUNT": "foreign", "WAKE": ""}
