"""The attachment store (``ATTACHMENT_STORE``): reading a file of it without following a link out of it."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from errno import ELOOP, ENOTDIR

from prx_email_django import errors
from prx_email_django.errors import AttachmentRejected

_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def read_stored(store: str | os.PathLike[str], path: str, max_size: int) -> bytes:
    """The content of a regular file below the store, of at most ``max_size`` bytes; no symbolic link is followed.

    Each component is opened relative to its directory's descriptor with ``O_NOFOLLOW``, so that renaming a directory,
    or putting a link in its place, during the walk changes nothing.  ``O_NONBLOCK``: opening a FIFO does not wait.

    Raises:
        AttachmentRejected: ``attachment_path_escapes_root``, ``attachment_not_found``, ``attachment_too_large``,
            ``attachment_store_not_configured`` (also where the system has no ``openat``, as on Windows).
    """
    parts = path.split("/")
    if "\x00" in path or any(part in {"", ".", ".."} for part in parts):
        raise _escapes()
    with ExitStack() as opened:
        directory = _open_store(store, opened)
        for part in parts[:-1]:
            directory = _open_below(directory, part, _DIRECTORY, opened)
        return _read(_open_below(directory, parts[-1], _FILE, opened), max_size)


def _open_store(store: str | os.PathLike[str], opened: ExitStack) -> int:
    if os.open not in os.supports_dir_fd or not _NO_LINK:
        raise store_not_configured()
    try:
        descriptor = os.open(store, _DIRECTORY)
    except OSError as error:
        raise store_not_configured() from error
    opened.callback(os.close, descriptor)
    return descriptor


def _open_below(directory: int, part: str, flags: int, opened: ExitStack) -> int:
    try:
        descriptor = os.open(part, flags | _NO_LINK, dir_fd=directory)
    except UnicodeEncodeError as error:
        raise _not_found() from error
    except OSError as error:
        # The error for a link in the place of a directory differs between systems.  Looking for the link decides only
        # which error is raised: nothing more is opened.
        if error.errno in {ELOOP, ENOTDIR} and _is_link(directory, part):
            raise _escapes() from error
        raise _not_found() from error
    opened.callback(os.close, descriptor)
    return descriptor


def _is_link(directory: int, part: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _read(descriptor: int, max_size: int) -> bytes:
    file_status = os.fstat(descriptor)
    if not stat.S_ISREG(file_status.st_mode):
        raise _not_found()
    if file_status.st_size > max_size:
        raise too_large()
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_size + 1)
    except OSError as error:
        raise _not_found() from error
    if len(content) > max_size:  # it has grown meanwhile
        raise too_large()
    return content


def too_large() -> AttachmentRejected:
    """The error for an attachment above ``ATTACHMENT_MAX_SIZE``."""
    return AttachmentRejected(errors.ATTACHMENT_TOO_LARGE, code="attachment_too_large")


def _escapes() -> AttachmentRejected:
    return AttachmentRejected(errors.ATTACHMENT_PATH_ESCAPES_ROOT, code="attachment_path_escapes_root")


def store_not_configured() -> AttachmentRejected:
    """The error for a path where there is no usable ``ATTACHMENT_STORE``."""
    return AttachmentRejected(errors.ATTACHMENT_STORE_NOT_CONFIGURED, code="attachment_store_not_configured")


def _not_found() -> AttachmentRejected:
    return AttachmentRejected("attachment not found in the attachment store", code="attachment_not_found")
