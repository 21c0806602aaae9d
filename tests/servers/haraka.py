"""Haraka from npm, which offers PIPELINING and refuses every command that arrives behind a body."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.daemons import folder, free_ports, listens, running
from tests.servers.npm_smtp_server import npm_install

PACKAGE = "Haraka@3.3.4"
PLUGIN = """
"use strict";
const fs = require("fs");
exports.register = function () {
    this.register_hook("rcpt", "take_recipient");
    this.register_hook("queue", "take_message");
};
exports.take_recipient = function (next) {
    next(OK);
};
exports.take_message = function (next, connection) {
    const recipients = connection.transaction.rcpt_to.map((recipient) => recipient.address);
    fs.appendFileSync(process.env.RECIPIENTS, recipients.join("\\n") + "\\n");
    next(OK);
};
"""


@dataclass(frozen=True, slots=True)
class Haraka:
    """Where it listens, and the file of the recipients that it accepted, one a line."""

    port: int
    recipients: Path


@contextlib.contextmanager
def haraka() -> Iterator[Haraka]:
    """Install it into a temporary folder and run it.

    Raises:
        Missing: no Node.js, or npm cannot reach its registry.
    """
    with folder() as path:
        node = npm_install(path, PACKAGE)
        package, (port,) = path / "node_modules" / "Haraka", free_ports(1)
        (path / "plugins").mkdir()
        (path / "plugins" / "take.js").write_text(PLUGIN)
        config, recipients = path / "config", path / "recipients"
        config.mkdir()
        shutil.copy(package / "config" / "connection.ini", config)
        (config / "plugins").write_text("take\n")
        (config / "smtp.ini").write_text(f"listen=127.0.0.1:{port}\nnodes=0\n")
        (config / "me").write_text("haraka.example.test\n")
        recipients.touch()
        env = shutil.which("env") or "env"
        command = [env, f"RECIPIENTS={recipients}", node, str(package / "bin" / "haraka"), "-c", str(path)]
        with running(command, ready=lambda: listens(port), log=path / "log"):
            yield Haraka(port, recipients)
