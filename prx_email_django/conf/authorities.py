"""Files with certificate authorities, which the settings and accounts name: checked before OpenSSL reads them.

Connections to mail servers and to token servers trust them in addition to the system's authorities.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from prx_email_django.rules.words import words as _

#: Bytes of a file; the bundle of all public authorities has 0.3 MB.
_MAX_SIZE = 10_000_000


class UnusableFile(Exception):
    """A file of authorities, or of the client certificate, cannot be used; ``str()`` is shown to people."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(_("%(name)s cannot be used: %(reason)s", name=name, reason=reason))


def file_version(name: str, path: str) -> tuple[int, int]:
    """Inode and time of change.  Only a regular file of a sensible size is read: a FIFO would never end.

    Raises:
        UnusableFile: it is no such file.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnusableFile(name, reason_in_words(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFile(name, _("it is not a file"))
    if found.st_size > _MAX_SIZE:
        raise UnusableFile(name, _("it is too large"))
    return found.st_ino, found.st_mtime_ns


def add_authorities(context: ssl.SSLContext, name: str, path: str) -> None:
    """Trust the authorities of a file that ``file_version`` has accepted, besides those that the context trusts.

    Raises:
        UnusableFile: it cannot be read, or holds no certificate.
    """
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise UnusableFile(name, reason_in_words(error, _("it holds no certificate in PEM format"))) from None


def reason_in_words(error: Exception, otherwise: str = "") -> str:
    """Return the system's words (``No such file or directory``), or ours for what OpenSSL or Python says."""
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return otherwise or _("it is not a path")
    return error.strerror or type(error).__name__
