"""Settings of the simulation: SQLite without waiting for a disk, short backoffs, no other app."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

#: ``__main__`` makes a folder in memory, and removes it.
DATABASE_FILE = Path(
    os.environ.get("PRX_SIMULATION_FOLDER", tempfile.gettempdir()), f"simulation_{os.getpid()}.sqlite3"
)
DATABASES = {
    "default": {
        "ENGINE": "tests.simulation.database",
        "NAME": str(DATABASE_FILE),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "timeout": 0,
            "cached_statements": 2000,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "prx_email_django"]
SECRET_KEY = "a key for the simulation only"
USE_TZ = True
PRX_EMAIL: dict[str, Any] = {
    "WAKE": "",
    "REFUSALS_IN_A_ROW": 3,
    "BASE_BACKOFF": 1,
    "MAX_BACKOFF": 60,
    "LEASE": 12,
    "SMTP_TIMEOUT": 5,
    "SEND_DEADLINE": 8,
    "MESSAGE_ID_DOMAIN": "simulation.example",
}
