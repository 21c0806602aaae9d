"""Exim with its own configuration, spool and ports; it delivers into a maildir."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from prx_email_django.transports.base import ConnectionSettings, TlsFiles
from tests.servers.daemons import folder, free_ports, listens, running
from tests.servers.installing import SBIN, unpack
from tests.servers.messages import Mailbox, Server
from tests.servers.private_ca import PrivateCA

USER, PASSWORD = "ann@example.com", "correct horse battery"
#: Compiled into Debian's Exim, which does not start without this system account.
OWNER = "Debian-exim"

CONFIG = """
primary_hostname = exim.example.test
exim_path = {program}
exim_user = {owner}
exim_group = {owner}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {ports[0]} : {ports[1]}
tls_on_connect_ports = {ports[1]}
tls_advertise_hosts = *
tls_certificate = {folder}/chain.pem
tls_privatekey = {folder}/chain.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
host_lookup =
rfc1413_hosts =
never_users =
keep_environment =
deliver_queue_load_max = 1000
queue_only_load = 1000
smtp_accept_max_per_connection = 5000
smtp_accept_queue_per_connection = 5000
acl_smtp_rcpt = recipient
acl_smtp_data = accept

begin acl
recipient:
  require authenticated = *
  deny    local_parts = ^refused
          message = 550 5.1.1 nobody of that name
  defer   local_parts = ^deferred
          message = 450 4.2.1 try again later
  accept

begin routers
everybody:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = {folder}/box
  maildir_format
  envelope_to_add
  user = {owner}
  group = {owner}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
"""


@contextlib.contextmanager
def exim(ca: PrivateCA) -> Iterator[Server]:
    """Run Exim."""
    with folder() as path, _account():
        program = _program(path)
        ports, owner = free_ports(2), pwd.getpwnam(OWNER)
        for name in ("spool", "log", "box"):
            (path / name).mkdir()
            os.chown(path / name, owner.pw_uid, owner.pw_gid)
        chain = ca.chain(path / "chain.pem")
        os.chown(chain, owner.pw_uid, owner.pw_gid)
        config, log = path / "exim.conf", path / "log" / "mainlog"
        config.write_text(
            CONFIG.format(folder=path, program=program, owner=OWNER, ports=ports, user=USER, password=PASSWORD),
        )
        config.chmod(0o644)
        with running([program, "-C", config, "-bdf"], ready=lambda: all(map(listens, ports)), log=path / "exim.log"):
            yield Server(_settings(ports, ca), Mailbox(path / "box", log))


def _program(path: Path) -> str | Path:
    """The path of Exim, installed or only unpacked: Debian allows one installed mail server only."""
    found = shutil.which("exim4", path=SBIN)
    if found is not None:
        return found
    unpack("exim4-daemon-light", path)
    return path / "usr" / "sbin" / "exim4"


@contextlib.contextmanager
def _account() -> Iterator[None]:
    """Create Exim's system account, and remove it afterwards; an existing account stays."""
    try:
        pwd.getpwnam(OWNER)
        yield
        return
    except KeyError:
        pass
    subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", OWNER], check=True)
    try:
        yield
    finally:
        subprocess.run(["userdel", "--force", OWNER], check=True, capture_output=True)


def _settings(ports: list[int], ca: PrivateCA) -> dict[str, ConnectionSettings]:
    common = {"host": "localhost", "auth_method": "password", "user": USER, "password": PASSWORD}
    rest = {"max_messages": 1000, "timeout": 60.0, "tls_files": TlsFiles(ca_file=str(ca.file))}
    return {
        "STARTTLS": ConnectionSettings(port=ports[0], security="starttls", **common, **rest),  # type: ignore[arg-type]
        "implicit TLS": ConnectionSettings(port=ports[1], security="tls", **common, **rest),  # type: ignore[arg-type]
    }
