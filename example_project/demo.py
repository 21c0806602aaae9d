"""``make demo``: a tour of the outbox that ends by itself; exit code 0 only if everything ended as it told."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.config.settings"

    from example_project.tour import main

    sys.exit(main())
