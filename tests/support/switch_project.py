"""A project made by ``startproject`` that sends the corpus of ``backend_messages`` through Django.

``python -m tests.support.switch_project`` in the project's folder, with its settings in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMTP = "django.core.mail.backends.smtp.EmailBackend"
OUTBOX = "prx_email_django.backends.OutboxEmailBackend"
#: Messages that no server without SMTPUTF8, or no parser, gives back as they were.
TIMEOUT = 120


class SwitchProject:
    """A project in a folder of its own; ``settings`` are lines that are added to Django's own file."""

    def __init__(self, folder: Path, settings: Sequence[str], *, ca_file: str = "", strict: bool = True) -> None:
        self.folder = folder
        self.file = folder / "shop" / "settings.py"
        #: Whether a warning is an error; Django 6.1 itself warns of EMAIL_HOST and its neighbours.
        self.strict = strict
        self.environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": f"{folder}:{ROOT}"}
        if ca_file:
            self.environment["SSL_CERT_FILE"] = ca_file
        folder.mkdir()
        self._run("-m", "django", "startproject", "shop", str(folder), environment={**os.environ})
        # Django 6.1's own file has MAILERS, beside which EMAIL_HOST is refused.
        with self.file.open("a") as file:
            file.write("\n".join(["", 'globals().pop("MAILERS", None)', *settings, ""]))

    def switch(self) -> None:
        """Change the path of the backend and nothing else, and install the app as every app is installed."""
        before = self.file.read_text()
        assert before.count(SMTP) == 1
        after = before.replace(SMTP, OUTBOX)
        assert sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)) == 1
        self.file.write_text(after + 'INSTALLED_APPS += ["prx_email_django"]\n')

    def manage(self, *arguments: str) -> str:
        """Run a command of ``manage.py``; its output."""
        return self._run("manage.py", *arguments)

    def send(self, code: str = "") -> Any:
        """Send the corpus, or run the code; what it printed, as JSON."""
        return json.loads(self._run(*(["-c", code] if code else ["-m", "tests.support.switch_project"])) or "null")

    def _run(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        strict = ["-W", "error"] if self.strict else []
        done = subprocess.run(
            [sys.executable, *strict, *arguments],
            cwd=self.folder,
            env=environment or self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout


def main() -> None:
    """Send each message of the corpus; print the names of those that were taken, and of those that were refused."""
    import django  # noqa: PLC0415

    django.setup()
    from tests.integration.backend_messages import MESSAGES  # noqa: PLC0415

    told: dict[str, str] = {}
    for name, make in sorted(MESSAGES.items()):
        message = make()
        try:
            told[name] = f"sent {message.send()}"
        except Exception as error:  # noqa: BLE001  (both backends must say the same)
            told[name] = f"refused {type(error).__name__}"
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
