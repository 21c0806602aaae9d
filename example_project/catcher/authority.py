"""A private certificate authority, as companies use it; the outbox trusts it because of ``TLS_CA_FILE``."""

from __future__ import annotations

from pathlib import Path

import trustme


def make_authority(folder: Path) -> None:
    """Write ``ca.pem`` (the certificate to trust) and ``server.pem`` (key and certificate of the mail server)."""
    authority = trustme.CA(organization_name="Lantern Books private CA")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = folder / "server.pem"
    server.touch(mode=0o600)
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(server)
