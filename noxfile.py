"""Unit and integration tests on every supported Python and Django, on SQLite: ``make matrix``.

Interpreters are taken from PATH and from ``~/.pyenv/versions``; one that is missing is skipped and named, and is a
failure with ``CI=true``.  ``PRX_MATRIX_PYTHONS="3.12 3.13"`` narrows.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nox

SUPPORTED = {
    "5.2": ("3.11", "3.12", "3.13"),
    "6.0": ("3.12", "3.13"),
    "6.1": ("3.12", "3.13"),
}
WANTED = os.environ.get("PRX_MATRIX_PYTHONS", "3.11 3.12 3.13").split()
CELLS = [(python, django) for django, pythons in SUPPORTED.items() for python in pythons if python in WANTED]

PLACES = ("tests/unit", "tests/integration")

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = os.environ.get("CI", "").lower() in {"1", "true"}

# pyenv's own launchers refuse the versions that are not switched on, so the real ones go first.
_pyenv = [sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin")) for python in sorted({p for p, _ in CELLS})]
os.environ["PATH"] = os.pathsep.join([*(str(found[-1]) for found in _pyenv if found), os.environ["PATH"]])
os.environ["UV_PYTHON_DOWNLOADS"] = "never"


def _constraints(folder: str) -> str:
    """The pinned versions without Django's, which the cell chooses."""
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    path = Path(folder, "constraints.txt")
    path.write_text("\n".join(line for line in lines if not line.startswith("Django==")), encoding="utf-8")
    return str(path)


@nox.session
@nox.parametrize(("python", "django"), CELLS)
def tests(session: nox.Session, django: str) -> None:
    """One cell; arguments after ``--`` go to pytest."""
    with tempfile.TemporaryDirectory() as folder:
        session.install("-c", _constraints(folder), f"Django~={django}.0", "--group", "test", "-e", ".")
    session.run("python", "-W", "error", "-m", "pytest", "-q", "-m", "not long", *PLACES, *session.posargs)
