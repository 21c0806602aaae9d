"""Reads what a reference to a secret names, at each connection: a rotated secret needs no restart."""

from __future__ import annotations

import os
import re
import stat

from django.views.decorators.debug import sensitive_variables

from prx_email_django.rules.references import Reference, literal, reference

#: A larger file is not a secret.
MAX_BYTES = 65_536
_LINE_END = re.compile(r"\r?\n\Z")


class SecretAbsent(Exception):
    """A reference names nothing that can be used; the text names the variable or the path, never its content."""


@sensitive_variables()
def resolve(text: str) -> str:
    """The secret: what a reference names, or the text itself.

    Raises:
        SecretAbsent: the variable is not set or empty; the file is missing, unreadable, empty or not text.
    """
    named = reference(text)
    if named is None:
        return literal(text)
    if named.problem:
        raise SecretAbsent(f"{named} {named.problem}")
    secret = _from_environment(named) if named.kind == "env" else _from_file(named)
    if "\0" in secret:
        raise SecretAbsent(f"{named}: it does not hold text")
    return secret


def absence(text: str) -> str:
    """Why the secret cannot be had in this process; empty if it can."""
    try:
        resolve(text)
    except SecretAbsent as error:
        return str(error)
    return ""


@sensitive_variables()
def _from_environment(named: Reference) -> str:
    value = os.environ.get(named.target)
    if value is None:
        raise SecretAbsent(f"{named}: the variable is not set")
    if not value:
        raise SecretAbsent(f"{named}: the variable is empty")
    return value


@sensitive_variables()
def _from_file(named: Reference) -> str:
    try:
        content = _read(named.target)
    except OSError as error:
        raise SecretAbsent(f"{named}: {error.strerror or type(error).__name__}") from None
    if content is None:
        raise SecretAbsent(f"{named}: it is not a file of at most {MAX_BYTES} bytes")
    try:
        secret = _LINE_END.sub("", content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SecretAbsent(f"{named}: it does not hold text in UTF-8") from None
    if not secret:
        raise SecretAbsent(f"{named}: the file is empty")
    return secret


@sensitive_variables()
def _read(path: str) -> bytes | None:
    """The content; None: no regular file, or too large.  A pipe that nobody writes to must not hold a worker."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(MAX_BYTES + 1)
    return content if len(content) <= MAX_BYTES else None
