"""``make serve``: runs the shop and the admin, the mail server, and the loop that sends until Ctrl-C.

``make serve ARGS="--port 8080"`` chooses the port of the web page.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.config.settings"

    from example_project.serving import main

    sys.exit(main())
