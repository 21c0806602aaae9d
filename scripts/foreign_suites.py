"""Other projects' mail tests, run with the outbox in the place of their email backend.

    python scripts/foreign_suites.py                        # the installed Django, and django-allauth
    python scripts/foreign_suites.py --django 6.0.10        # another Django, beside the installed one
    python scripts/foreign_suites.py --only django -- -x    # arguments after -- go to pytest

Their sources come from PyPI, by pip, into a directory that is kept (``--folder``) or thrown away.  What plugs the
outbox into them is in ``tests/foreign``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ROOT / "tests" / "foreign"
ALLAUTH = "65.21.1"
#: What django-allauth's tests import beside Django and pytest.
THEIR_TOOLS = ("requests", "urllib3", "certifi", "idna", "charset-normalizer", "pytest-asyncio")


def pip(*arguments: str) -> None:
    """Run pip, quietly."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def source(requirement: str, folder: Path) -> Path:
    """Download and unpack a source distribution; returns its directory."""
    into = folder / requirement.replace("==", "-")
    if not into.is_dir():
        pip("download", "--no-binary", ":all:", "--no-deps", "--dest", str(into), requirement)
        (archive,) = into.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(into, filter="data")
    (unpacked,) = (path for path in into.iterdir() if path.is_dir())
    return unpacked


def installed(folder: Path, requirement: str, *more: str) -> Path:
    """Install without dependencies into a directory of its own, to be put on ``sys.path``; returns it."""
    into = folder / f"site-{requirement.replace('==', '-')}-{sys.version_info.major}.{sys.version_info.minor}"
    if not into.is_dir():
        pip("install", "--no-deps", "--target", str(into), requirement, *more)
    return into


def pytest(arguments: Sequence[str], *, paths: Sequence[Path], cwd: Path) -> int:
    """Run pytest with warnings as errors; returns its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run([*command, *arguments], cwd=cwd, env=environment, check=False).returncode


def django_mail(django: str, folder: Path, beside: Sequence[Path], more: Sequence[str]) -> int:
    """Django's ``tests/mail``."""
    theirs = source(f"django=={django}", folder) / "tests"
    arguments = ["-c", os.devnull, "--rootdir", str(FOREIGN), "--ds", "foreign_settings", "suite_django_mail.py"]
    return pytest([*arguments, *more], paths=[*beside, FOREIGN, ROOT, theirs], cwd=FOREIGN)


def allauth_account(folder: Path, beside: Sequence[Path], more: Sequence[str]) -> int:
    """django-allauth's tests of accounts: confirmations, password resets, login codes, notifications."""
    requirement = f"django-allauth=={ALLAUTH}"
    theirs = source(requirement, folder)
    site = installed(folder, requirement, *THEIR_TOOLS)
    arguments = ["--ds", "foreign_allauth_settings", "-p", "foreign_allauth", "tests/apps/account"]
    # Their own warnings are theirs to mend.
    return pytest([*arguments, "-W", "default", *more], paths=[*beside, theirs, site, FOREIGN, ROOT], cwd=theirs)


def main() -> int:
    """Parse, fetch, run; returns the number of suites that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--django", help="version to test, where it is not the installed one")
    parser.add_argument("--only", choices=("django", "allauth"), help="one suite")
    parser.add_argument("--folder", type=Path, help="where downloads are kept")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        beside = [installed(folder, f"django=={given.django}")] if given.django else []
        failed = 0
        if given.only in {None, "django"}:
            failed += bool(django_mail(given.django or version("django"), folder, beside, given.pytest))
        if given.only in {None, "allauth"}:
            failed += bool(allauth_account(folder, beside, given.pytest))
        return failed


if __name__ == "__main__":
    sys.exit(main())
