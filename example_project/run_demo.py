"""``make demo``: runs the demo; exit code 0 only if every step ended as expected."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.config.settings"

    from example_project.demo.runner import main

    sys.exit(main())
