"""Settings of workers that a test starts: those of the tests, with what the test puts into the environment.

``PRX_EMAIL`` and ``Q_CLUSTER`` are JSON objects that are laid over the test project's own.
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
