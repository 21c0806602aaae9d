"""Dovecot authenticates for Postfix: passwords from a file, access tokens by their signature."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.daemons import running
from tests.servers.installing import command, need_file
from tests.servers.tokens import KEY

USER, PASSWORD = "ann@example.com", "correct horse battery"

COMMON = """
base_dir = {folder}/dovecot
state_dir = {folder}/dovecot-state
log_path = {folder}/dovecot.log
protocols =
ssl = no
auth_mechanisms = plain login cram-md5 xoauth2 oauthbearer
# Refusals are tested here, not the delay after a wrong password.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/auth {{
    mode = 0666
  }}
}}
"""

DOVECOT_2_3 = """
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5
  args = scheme=PLAIN username_format=%u {folder}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
"""

OAUTH2_2_3 = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = email
"""

# The syntax of 2.4.0, which later versions accept too.
VERSION_2_4 = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""

DOVECOT_2_4 = """
auth_allow_cleartext = yes
passdb passwd-file {{
  mechanisms_filter = plain login cram-md5
  default_password_scheme = PLAIN
  auth_username_format = %{{user}}
  passwd_file_path = {folder}/users
}}
oauth2 {{
  introspection_mode = local
  username_attribute = email
  oauth2_local_validation {{
    dict fs {{
      fs posix {{
        prefix = {folder}/keys/
      }}
    }}
  }}
}}
passdb oauth2 {{
  mechanisms_filter = xoauth2 oauthbearer
}}
userdb static {{
  fields {{
    uid = nobody
    gid = nogroup
    home = /nonexistent
  }}
}}
"""


@contextlib.contextmanager
def dovecot(folder: Path) -> Iterator[Path]:
    """Run Dovecot as an authentication server; yields the path of its socket."""
    program = command("dovecot", "dovecot-core")
    need_file("/usr/lib/dovecot/auth", "dovecot-core")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    (folder / "users").write_text(f"{USER}:{PASSWORD}\n")
    # <prefix>/<azp>/<alg>/<kid>: "default" where the token names neither.
    key = folder / "keys" / "default" / "HS256" / "default"
    key.parent.mkdir(parents=True)
    key.write_text(base64.b64encode(KEY).decode())
    config, socket = folder / "dovecot.conf", folder / "auth"
    config.write_text(_config(version).format(folder=folder))
    (folder / "oauth2.conf").write_text(OAUTH2_2_3.format(folder=folder))
    with running([program, "-F", "-c", config], ready=socket.exists, log=folder / "dovecot.log"):
        yield socket


def _config(version: str) -> str:
    """The configuration for this version: settings have other names since 2.4, and the version comes first."""
    return COMMON + DOVECOT_2_3 if version.startswith("2.3.") else VERSION_2_4 + COMMON + DOVECOT_2_4
