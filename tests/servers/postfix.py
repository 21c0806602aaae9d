"""Postfix with its own configuration, queue and ports; it authenticates with Dovecot and delivers into a maildir."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator

from prx_email_django.transports.base import ConnectionSettings, TlsFiles
from tests.servers import tokens
from tests.servers.daemons import folder, free_ports
from tests.servers.dovecot import PASSWORD, USER, dovecot
from tests.servers.installing import command
from tests.servers.messages import Mailbox, Server
from tests.servers.postfix_instance import postfix_instance
from tests.servers.private_ca import PrivateCA
from tests.support.patience import PATIENCE

MAIN = """
mynetworks =
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:box/
virtual_mailbox_base = {folder}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1

smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access regexp:{folder}/recipients
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {socket}
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {chain}
"""

RECIPIENTS = """
/^refused/ 550 5.1.1 nobody of that name
/^deferred/ 450 4.2.1 try again later
"""

MASTER = """
127.0.0.1:{ports[0]} inet n - n - - smtpd
  -o smtpd_sasl_mechanism_filter=plain
127.0.0.1:{ports[1]} inet n - n - - smtpd
  -o smtpd_sasl_mechanism_filter=login
  -o smtpd_tls_wrappermode=yes
127.0.0.1:{ports[2]} inet n - n - - smtpd
  -o smtpd_sasl_mechanism_filter=xoauth2
127.0.0.1:{ports[3]} inet n - n - - smtpd
  -o smtpd_sasl_mechanism_filter=cram-md5
127.0.0.1:{ports[4]} inet n - n - - smtpd
  -o smtpd_sasl_mechanism_filter=oauthbearer
tlsmgr unix - - n 1000? 1 tlsmgr
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
"""


@contextlib.contextmanager
def postfix(ca: PrivateCA) -> Iterator[Server]:
    """Run Postfix and Dovecot."""
    commands = command("postfix", "postfix"), command("postconf", "postfix")
    with folder() as path, dovecot(path) as socket:
        ports, owner = free_ports(5), pwd.getpwnam("nobody")
        (path / "postfix").mkdir()
        chain = ca.chain(path / "postfix" / "chain.pem")
        (path / "box").mkdir()
        os.chown(path / "box", owner.pw_uid, owner.pw_gid)
        (path / "recipients").write_text(RECIPIENTS)
        main = MAIN.format(folder=path, uid=owner.pw_uid, gid=owner.pw_gid, socket=socket, chain=chain)
        master = MASTER.format(ports=ports)
        with postfix_instance(path, commands=commands, main=main, master=master, ports=ports) as log:
            yield Server(_settings(ports, ca), Mailbox(path / "box", log))


def _settings(ports: list[int], ca: PrivateCA) -> dict[str, ConnectionSettings]:
    def settings(
        port: int, security: str, auth_method: str, *, password: str = "", token: str = ""
    ) -> ConnectionSettings:
        return ConnectionSettings(
            host="localhost",
            port=port,
            security=security,
            auth_method=auth_method,
            user=USER,
            max_messages=1000,
            timeout=PATIENCE,
            tls_files=TlsFiles(ca_file=str(ca.file)),
            password=password,
            token=token,
        )

    return {
        "PLAIN after STARTTLS": settings(ports[0], "starttls", "password", password=PASSWORD),
        "LOGIN in implicit TLS": settings(ports[1], "tls", "password", password=PASSWORD),
        "XOAUTH2 after STARTTLS": settings(ports[2], "starttls", "xoauth2", token=tokens.token(USER)),
        "CRAM-MD5 after STARTTLS": settings(ports[3], "starttls", "password", password=PASSWORD),
        "OAUTHBEARER after STARTTLS": settings(ports[4], "starttls", "xoauth2", token=tokens.token(USER)),
    }
