"""A process of a project with django-post_office and django-mailer: one function of this project, its result as JSON.

    python -m tests.support.peer_project tests.support.peer_post_office:moved

The tables of both packages exist while the function runs.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.smtp import EmailBackend
from django.db import connection

PACKAGES = ("post_office", "mailer")
TIMEOUT = 120


def run(function: str, *, port: int, media: Path, **variables: str) -> Any:
    """Run ``module:function`` in a process of the project; return what it returned."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.peer_settings",
        "SMTP_PORT": str(port),
        "MEDIA_ROOT": str(media),
        **variables,
    }
    command = [sys.executable, "-m", "tests.support.peer_project", function]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, f"{function}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def outbox_import(*arguments: str) -> list[str]:
    """The lines that the command prints."""
    from django.core.management import call_command  # noqa: PLC0415

    out = StringIO()
    call_command("outbox_import", *arguments, "--no-progress", stdout=out)
    return out.getvalue().splitlines()


def as_it_would_be_sent(email: EmailMessage) -> dict[str, Any]:
    """Envelope and bytes that Django's SMTP backend would send."""
    raw = email.message().as_bytes()
    return {"recipients": sorted(set(email.recipients())), "raw": base64.b64encode(raw).decode()}


class ImportsWhileItSends(EmailBackend):
    """The transport of the other package's worker: a whole import runs while the first message is being sent."""

    package = ""
    printed: list[str] = []  # noqa: RUF012  (of the process)

    def send_messages(self, email_messages: Any) -> int:
        """Import, then send."""
        if not self.printed and self.package:
            importing = threading.Thread(target=self._import)
            importing.start()
            importing.join()
        return super().send_messages(email_messages) or 0

    def _import(self) -> None:
        try:
            self.printed.extend(outbox_import(self.package))
        except Exception as error:  # noqa: BLE001  (its text is the result)
            self.printed.append(str(error))
        finally:
            connection.close()


@contextmanager
def tables() -> Iterator[None]:
    """Make the tables of both packages, and remove them: the database belongs to the test.

    Their migrations make the same tables in seconds.
    """
    from django.apps import apps  # noqa: PLC0415

    models = [model for package in PACKAGES for model in apps.get_app_config(package).get_models()]
    with connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)
    try:
        yield
    finally:
        with connection.constraint_checks_disabled(), connection.schema_editor() as editor:
            for model in models:
                editor.delete_model(model)


def main() -> None:
    """Run the function that the argument names."""
    import django  # noqa: PLC0415

    django.setup()
    module, _, name = sys.argv[1].partition(":")
    # This module has been loaded as __main__; the settings name the class by its proper path.
    function: Callable[[], Any] = getattr(import_module(module), name)
    with tables():
        result = function()
    sys.stdout.write(f"\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
