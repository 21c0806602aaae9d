"""Django's commands for the example: ``.venv/bin/python example_project/manage.py outbox_status``."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.config.settings"

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
