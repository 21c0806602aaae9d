"""Settings of ``bench_latency``: those of the tests, for one of three engines (``DATABASE``), with real commits."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

if "options" in (given := DATABASES["default"].get("OPTIONS", {})):
    given.pop("options")  # PostgreSQL's commits wait for the disk, as a host's do
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"prx_email_django": {"level": "WARNING"}}}
PRX_EMAIL = {"WAKE": ""}
