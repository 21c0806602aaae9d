"""Installs mail servers from Debian's packages, and starts none of them as a service."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
POLICY = Path("/usr/sbin/policy-rc.d")
#: Seconds for a download with its installation.
TIMEOUT = 300


class Missing(Exception):
    """A server is not installed and cannot be installed on this machine; the text says the reason."""


def command(name: str, *packages: str) -> str:
    """Return the path of a program; install its packages if it is absent.

    Raises:
        Missing: it cannot be installed here.
    """
    if _which(name) is None:
        install(*packages)
    found = _which(name)
    if found is None:
        raise Missing(f"{' '.join(packages)} has no {name}")
    return found


def need_file(path: str, *packages: str) -> None:
    """Install the packages if this file of theirs is absent."""
    if not Path(path).exists():
        install(*packages)


def install(*packages: str) -> None:
    """Install packages, but remove none for them: another mail server of this machine stays.

    Raises:
        Missing: not root, not Debian, no network, or another mail server is installed.
    """
    if os.geteuid() or shutil.which("apt-get") is None:
        raise Missing(f"{', '.join(packages)} is missing, and only root on Debian can install it")
    with _no_services():
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", "--no-remove", *packages)


def unpack(package: str, folder: Path) -> None:
    """Download a package and unpack it without installing it (only one mail server may be installed at a time).

    Raises:
        Missing: the package, or a library that it needs, cannot be downloaded.
    """
    if os.geteuid() or shutil.which("apt-get") is None:
        raise Missing(f"{package} is missing, and only root on Debian can download it")
    _apt("update", "-qq")
    _apt("download", "-qq", package, folder=folder)
    archive = next(folder.glob(f"{package}_*.deb"))
    field = subprocess.run(["dpkg-deb", "-f", archive, "Depends"], capture_output=True, text=True, check=True).stdout
    needed = [words.split()[0] for words in field.split(",")]
    install(*(name for name in needed if name.startswith("lib")))
    subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def _apt(*arguments: str, folder: Path | None = None) -> None:
    done = subprocess.run(
        ["apt-get", *arguments],
        cwd=folder,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise Missing(f"apt-get {' '.join(arguments)}: {' '.join((done.stdout + done.stderr).split()[-40:])}")


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Debian asks this file before it starts a service."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
