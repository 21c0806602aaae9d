"""Run the mail tests of other projects with the outbox as their email backend.

    python scripts/foreign_suites.py                        # the installed Django, and django-allauth
    python scripts/foreign_suites.py --django 6.0.10        # another Django instead of the installed one
    python scripts/foreign_suites.py --only django -- -x    # arguments after -- go to pytest

pip downloads their sources from PyPI into ``--folder``, or into a temporary folder.  ``tests/foreign`` has the settings
and adapters.
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
#: Packages that django-allauth's tests import, except Django and pytest.
ALLAUTH_TOOLS = ("requests", "urllib3", "certifi", "idna", "charset-normalizer", "pytest-asyncio")


def pip(*arguments: str) -> None:
    """Run pip without output."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def source(requirement: str, folder: Path) -> Path:
    """Download and unpack a source distribution; return its folder."""
    into = folder / requirement.replace("==", "-")
    if not into.is_dir():
        pip("download", "--no-binary", ":all:", "--no-deps", "--dest", str(into), requirement)
        (archive,) = into.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(into, filter="data")
    (unpacked,) = (path for path in into.iterdir() if path.is_dir())
    return unpacked


def installed(folder: Path, requirement: str, *more: str) -> Path:
    """Install without dependencies into a separate folder, for ``sys.path``; return the folder."""
    into = folder / f"site-{requirement.replace('==', '-')}-{sys.version_info.major}.{sys.version_info.minor}"
    if not into.is_dir():
        pip("install", "--no-deps", "--target", str(into), requirement, *more)
    return into


def pytest(arguments: Sequence[str], *, paths: Sequence[Path], cwd: Path) -> int:
    """Run pytest with warnings as errors; return its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run([*command, *arguments], cwd=cwd, env=environment, check=False).returncode


def django_mail(django: str, folder: Path, installed_first: Sequence[Path], more: Sequence[str]) -> int:
    """Run Django's ``tests/mail``; return the exit status."""
    tests = source(f"django=={django}", folder) / "tests"
    arguments = ["-c", os.devnull, "--rootdir", str(FOREIGN), "--ds", "foreign_settings", "suite_django_mail.py"]
    return pytest([*arguments, *more], paths=[*installed_first, FOREIGN, ROOT, tests], cwd=FOREIGN)


def allauth_account(folder: Path, installed_first: Sequence[Path], more: Sequence[str]) -> int:
    """Run django-allauth's account tests (confirmations, resets, codes, notifications); return the exit status."""
    requirement = f"django-allauth=={ALLAUTH}"
    sources = source(requirement, folder)
    site = installed(folder, requirement, *ALLAUTH_TOOLS)
    arguments = ["--ds", "foreign_allauth_settings", "-p", "foreign_allauth", "tests/apps/account"]
    # Warnings of that project are not errors here.
    return pytest(
        [*arguments, "-W", "default", *more], paths=[*installed_first, sources, site, FOREIGN, ROOT], cwd=sources
    )


def main() -> int:
    """Run the suites; return how many of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--django", help="Django version to test (default: the installed one)")
    parser.add_argument("--only", choices=("django", "allauth"), help="run only this suite")
    parser.add_argument("--folder", type=Path, help="keep downloads in this folder")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        installed_first = [installed(folder, f"django=={options.django}")] if options.django else []
        failed = 0
        if options.only in {None, "django"}:
            failed += bool(django_mail(options.django or version("django"), folder, installed_first, options.pytest))
        if options.only in {None, "allauth"}:
            failed += bool(allauth_account(folder, installed_first, options.pytest))
        return failed


if __name__ == "__main__":
    sys.exit(main())
