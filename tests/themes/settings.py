"""The test project with the admin theme that ``THEME`` names: ``unfold``, ``jazzmin`` or ``grappelli``."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as _USUAL

THEME = os.environ["THEME"]
INSTALLED_APPS = [THEME, *_USUAL]
ROOT_URLCONF = "tests.themes.urls"
# Dark where the reader's system is.
JAZZMIN_UI_TWEAKS = {"default_theme_mode": "auto"}
