"""Unit and integration tests on every supported Python and Django, on SQLite, and django-tenants: ``make matrix``.

The oldest and the newest pair run all of them.  The other cells run the tests that are marked ``pair``: a test without
that mark which passes at both ends passes between them too.  ``PRX_MATRIX_COMPLETE=1`` lets every cell run all.

``make matrix ARGS="--session tenants"`` runs ``tests/tenants`` alone: django-tenants on PostgreSQL.

Interpreters are taken from PATH and from ``~/.pyenv/versions``.  A missing interpreter is named and skipped; with
``CI=true`` uv downloads it, and without it the run fails.  ``PRX_MATRIX_PYTHONS="3.12 3.13"`` narrows the run.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import nox

SUPPORTED = {
    "5.2": ("3.11", "3.12", "3.13"),
    "6.0": ("3.12", "3.13"),
    "6.1": ("3.12", "3.13"),
}
#: Cells that run all tests.
COMPLETE = {("3.11", "5.2"), ("3.13", "6.1")}
#: The cell that measures which lines its tests reach.
MEASURED = ("3.13", "6.1")
if os.environ.get("PRX_MATRIX_COMPLETE") == "1":
    COMPLETE = {(python, django) for django, pythons in SUPPORTED.items() for python in pythons}
WANTED = os.environ.get("PRX_MATRIX_PYTHONS", "3.11 3.12 3.13").split()
CELLS = [(python, django) for django, pythons in SUPPORTED.items() for python in pythons if python in WANTED]

TENANTS = "4.0.1"
FOLDERS = ("tests/unit", "tests/integration")
CI = os.environ.get("CI", "").lower() in {"1", "true"}

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = CI

# pyenv's launchers fail for a version that is not activated, so the interpreters themselves come first on PATH.
_pyenv = [sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin")) for python in sorted({p for p, _ in CELLS})]
os.environ["PATH"] = os.pathsep.join([*(str(folders[-1]) for folders in _pyenv if folders), os.environ["PATH"]])
# Debian has one Python; a developer's machine is not changed.
os.environ["UV_PYTHON_DOWNLOADS"] = "automatic" if CI else "never"


def _constraints(folder: str) -> str:
    """Write the pinned versions, without Django's, to a file and return its path: the cell chooses Django."""
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    path = Path(folder, "constraints.txt")
    path.write_text("\n".join(line for line in lines if not line.startswith("Django==")), encoding="utf-8")
    return str(path)


@nox.session
@nox.parametrize(("python", "django"), CELLS)
def tests(session: nox.Session, django: str) -> None:
    """Run one cell of the matrix; arguments after ``--`` go to pytest."""
    with tempfile.TemporaryDirectory() as folder:
        session.install(
            "-c", _constraints(folder), f"Django~={django}.0", "--group", "test", "-e", ".[google,metrics,microsoft]"
        )
    complete = (session.python, django) in COMPLETE
    pytest = ("pytest", "-q", "-m", "not long" if complete else "pair and not long", *FOLDERS, *session.posargs)
    if (session.python, django) == MEASURED and not session.posargs:
        session.run("python", "-W", "error", "-m", "coverage", "run", "-m", *pytest)
        session.run("python", "-m", "coverage", "report")
    else:
        session.run("python", "-W", "error", "-m", *pytest)


@nox.session(python=["3.13"] if "3.13" in WANTED else [])
def tenants(session: nox.Session) -> None:
    """Run ``tests/tenants`` twice: an outbox in each schema, and one in the shared schema."""
    address = os.environ.get("POSTGRES_HOST", "127.0.0.1"), int(os.environ.get("POSTGRES_PORT", "5432"))
    with socket.socket() as probe:
        if probe.connect_ex(address):
            session.skip("PostgreSQL is not running")
    session.install("-c", "constraints.txt", "--group", "test", "-e", ".[postgres]", f"django-tenants=={TENANTS}")
    for outbox in ("tenants", "shared"):
        session.run(
            *("python", "-m", "pytest", "-q", "--ds", "tests.tenants.settings", "tests/tenants", *session.posargs),
            env={"OUTBOX": outbox},
        )


@nox.session(python=WANTED[0], default=False)
@nox.parametrize("theme", ["unfold", "jazzmin", "grappelli"])
def themes(session: nox.Session, theme: str) -> None:
    """Open the admin in a theme, in Chromium: ``nox -s themes``."""
    session.install("-c", "constraints.txt", "--group", "test", "-e", ".", f"django-{theme}")
    session.run("python", "-m", "pytest", "-q", "--ds", "tests.themes.settings", "tests/themes", env={"THEME": theme})
