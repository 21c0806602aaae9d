"""Description of the machine and of the packages, printed above the tables."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ["Django", "aiosmtplib", "psycopg", "django-post_office"]


def describe(interpreter: str) -> list[str]:
    """Return lines with processor, load and versions."""
    program = f"import importlib.metadata as m\nfor name in {PACKAGES!r}: print(name, m.version(name))"
    versions = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=True).stdout
    release = ".".join(platform.release().split(".")[:2])
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return [
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {release}, load {load}",
        f"Python {platform.python_version()}, {', '.join(versions.splitlines())}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
