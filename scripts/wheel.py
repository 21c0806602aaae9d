"""Build the packages, check them, install the wheel into a clean environment and use it there as a project would.

Checked: both packages are the same bytes when they are built again in another folder; every tracked file of the
package is in the wheel, and the documents and tests are in the source distribution; ``twine check --strict``;
``check-wheel-contents``.  ``--outdir dist`` keeps the packages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "scripts" / "wheel_smoke.py"
#: Folders of which the source distribution has every file.
IN_SDIST = ("prx_email_django/", "docs/", "tests/", "example_project/", "scripts/")
#: What a user needs and a careless pattern could leave out of the wheel.
IN_WHEEL = ("prx_email_django/py.typed", "prx_email_django/locale/ja/LC_MESSAGES/django.mo")


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """Build the source distribution of a folder, and from it the wheel, so that both are known to be complete."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch()}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def epoch() -> str:
    """The time that the packages give their files: of the last commit, in seconds (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or _git("log", "-1", "--format=%ct").strip()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def differences(sdist: Path, wheel: Path, folder: Path) -> Iterator[str]:
    """Build again from the unpacked source distribution; yield the packages that are not the same bytes."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    for first, second in zip((sdist, wheel), build(source, folder / "again"), strict=True):
        if first.name != second.name or _digest(first) != _digest(second):
            yield f"{first.name} has other bytes when it is built again"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def missing(sdist: Path, wheel: Path) -> Iterator[str]:
    """Yield the tracked files that a package should have and has not, and those that the wheel has besides."""
    tracked = set(_git("ls-files").splitlines())
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    yield from (f"{sdist.name} lacks {name}" for name in sorted(tracked - shipped) if name.startswith(IN_SDIST))
    with zipfile.ZipFile(wheel) as wheel_archive:
        installed = {name for name in wheel_archive.namelist() if ".dist-info/" not in name}
    package = {name for name in tracked if name.startswith("prx_email_django/")} | set(IN_WHEEL)
    yield from (f"{wheel.name} lacks {name}" for name in sorted(package - installed))
    yield from (f"{wheel.name} has {name}, which is not tracked" for name in sorted(installed - package))


def inspect(*packages: Path) -> Iterator[str]:
    """Yield what the usual tools find: metadata that an index refuses, files that no wheel should have."""
    wheels = [str(path) for path in packages if path.suffix == ".whl"]
    for tool, *arguments in (
        ["twine", "check", "--strict", *map(str, packages)],
        ["check_wheel_contents", "--config", str(ROOT / "pyproject.toml"), *wheels],
    ):
        ended = subprocess.run([sys.executable, "-m", tool, *arguments], check=False, capture_output=True, text=True)
        if ended.returncode:
            yield f"{tool}: {ended.stdout}{ended.stderr}"


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel and its dependencies, no development tool; return the interpreter."""
    venv.create(folder, with_pip=True)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    pip = [str(python), "-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def main() -> int:
    """Return 0 if the packages are in order and the installed wheel works."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, help="keep the packages in this folder, which must be empty")
    outdir = parser.parse_args().outdir
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist = folder / "dist" if outdir is None else outdir
        packages = build(ROOT, dist)
        problems = [*differences(*packages, folder / "again"), *missing(*packages), *inspect(*packages)]
        print(*problems, sep="\n", end="\n" if problems else "")
        python = install(packages[1], folder / "venv")
        # -P and another folder: the smoke test must not import the checkout instead of the wheel.
        smoke = subprocess.run([str(python), "-P", "-W", "error", str(SMOKE)], cwd=folder, check=False)
    print(
        packages[1].name,
        "works in a clean environment" if smoke.returncode == 0 else "FAILED in a clean environment",
        flush=True,
    )
    return smoke.returncode or bool(problems)


if __name__ == "__main__":
    sys.exit(main())
