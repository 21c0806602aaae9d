"""A certificate authority that nobody knows but who is told."""

from __future__ import annotations

from pathlib import Path

import trustme


class PrivateCA:
    """Certifies ``localhost``."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._leaf = self._ca.issue_cert("localhost")
        #: What clients are told to trust.
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def chain(self, path: Path) -> Path:
        """Key and certificates of a server in one file, as root can read it."""
        self._leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o600)
        return path
