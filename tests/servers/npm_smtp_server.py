"""npm's ``smtp-server``, an implementation in JavaScript; each message that it accepts becomes a file."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from prx_email_django.transports.base import ConnectionSettings, TlsFiles
from tests.servers.daemons import folder, free_ports, listens, running
from tests.servers.installing import Missing
from tests.servers.messages import Mailbox, Server
from tests.servers.private_ca import PrivateCA
from tests.support.patience import PATIENCE

PACKAGE = "smtp-server@3.21.6"
SCRIPT = Path(__file__).with_name("npm_smtp_server.js")
USER, PASSWORD, TOKEN = "ann@example.com", "correct horse battery", "a-token-that-is-good"


def npm_install(path: Path, package: str) -> str:
    """Install a package into ``path``, without its install scripts; return the path of Node.js.

    Raises:
        Missing: no Node.js, or npm cannot reach its registry.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("Node.js with npm is missing")
    options = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts", "--prefix", str(path)]
    done = subprocess.run(
        [npm, "install", *options, package], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if done.returncode:
        raise Missing(f"npm install {package}: {done.stderr.strip()[-300:]}")
    return node


@contextlib.contextmanager
def npm_smtp_server(ca: PrivateCA) -> Iterator[Server]:
    """Install it into a temporary folder and run it.

    Raises:
        Missing: no Node.js, or npm cannot reach its registry.
    """
    with folder() as path:
        node = npm_install(path, PACKAGE)
        script, box, log = path / SCRIPT.name, path / "box", path / "log"
        shutil.copy(SCRIPT, script)
        (box / "new").mkdir(parents=True)
        ports = free_ports(2)
        chain = ca.chain(path / "chain.pem")
        command = [node, str(script), *map(str, ports), str(chain), str(box / "new"), USER, PASSWORD, TOKEN]
        with running(command, ready=lambda: all(map(listens, ports)), log=log):
            yield Server(_settings(ports, ca), Mailbox(box, log))


def _settings(ports: list[int], ca: PrivateCA) -> dict[str, ConnectionSettings]:
    common = {
        "host": "localhost",
        "user": USER,
        "max_messages": 1000,
        "timeout": 60.0,
        "tls_files": TlsFiles(ca_file=str(ca.file)),
    }
    password = {"auth_method": "password", "password": PASSWORD}
    return {
        "PLAIN after STARTTLS": ConnectionSettings(port=ports[0], security="starttls", **password, **common),  # type: ignore[arg-type]
        "PLAIN in implicit TLS": ConnectionSettings(port=ports[1], security="tls", **password, **common),  # type: ignore[arg-type]
        "XOAUTH2 after STARTTLS": ConnectionSettings(
            port=ports[0],
            security="starttls",
            auth_method="xoauth2",
            token=TOKEN,
            **common,  # type: ignore[arg-type]
        ),
    }
