"""Settings of a project with django-post_office and django-mailer, on the database of the test.

``SMTP_PORT`` is the port of the server that a test has started.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, TEMPLATES

INSTALLED_APPS = [*INSTALLED_APPS, "post_office", "mailer"]
TEMPLATES = [
    *TEMPLATES,
    {
        "BACKEND": "post_office.template.backends.post_office.PostOfficeTemplates",
        "APP_DIRS": True,
        "DIRS": [],
        "OPTIONS": {"context_processors": []},
    },
]
PRX_EMAIL = {"DEFAULT_ACCOUNT": "main"}
EMAIL_BACKEND = os.environ.get("PEER_BACKEND", "post_office.EmailBackend")
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = int(os.environ.get("SMTP_PORT", "0"))
MEDIA_ROOT = os.environ.get("MEDIA_ROOT", "")
WORKER_BACKEND = os.environ.get("WORKER_BACKEND", "tests.support.peer_project.ImportsWhileItSends")
MAILER_EMAIL_BACKEND = WORKER_BACKEND
MAILER_EMAIL_MAX_RETRIES = 3
MAILER_LOCK_PATH = str(Path(tempfile.gettempdir(), f"prx_mailer_{os.getpid()}"))
POST_OFFICE = {
    "BACKENDS": {"default": WORKER_BACKEND, "bulk": WORKER_BACKEND, "newsletter": WORKER_BACKEND},
    "TEMPLATE_ENGINE": "post_office",
    "LOCK_FILE_NAME": f"prx_post_office_{os.getpid()}",
    "MAX_RETRIES": 1,
    "LOG_LEVEL": 2,
    "THREADS_PER_PROCESS": int(os.environ.get("POST_OFFICE_THREADS", "1")),
}
