"""Settings of the worker processes that a test starts: ``tests.settings``, changed by two environment variables.

``PRX_EMAIL`` is a JSON object that replaces the setting; ``Q_CLUSTER`` is one that is merged into it.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import Q_CLUSTER as TESTS_Q_CLUSTER

PRX_EMAIL: dict[str, Any] = json.loads(os.environ.get("PRX_EMAIL", "{}"))
Q_CLUSTER = {**TESTS_Q_CLUSTER, **json.loads(os.environ.get("Q_CLUSTER", "{}"))}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"prx_email_django": {"handlers": ["console"], "level": "DEBUG"}},
}
