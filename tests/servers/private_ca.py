"""A certificate authority for tests."""

from __future__ import annotations

from pathlib import Path

import trustme


class PrivateCA:
    """Issues the certificate of ``localhost``."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._leaf = self._ca.issue_cert("localhost")
        #: The certificate that clients must trust.
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def chain(self, path: Path) -> Path:
        """Write key and certificates of a server into one file that only its owner can read."""
        self._leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o600)
        return path
