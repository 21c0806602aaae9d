"""Reads what a reference to a secret names, at each connection: a rotated secret needs no restart."""

from __future__ import annotations

import os
import re
import stat

from django.views.decorators.debug import sensitive_variables

from prx_email_django.rules.references import Reference, literal, reference
from prx_email_django.rules.words import words as _

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
        raise SecretAbsent(_("%(reference)s %(problem)s", reference=named, problem=named.problem))
    secret = _from_environment(named) if named.kind == "env" else _from_file(named)
    if "\0" in secret:
        raise SecretAbsent(_("%(reference)s: it does not hold text", reference=named))
    return secret


def absence(text: str) -> str:
    """Why the secret cannot be had in this process; empty if it can."""
    try:
        resolve(text)
    except SecretAbsent as error:
        why: str = error.args[0]
        return why
    return ""


@sensitive_variables()
def _from_environment(named: Reference) -> str:
    value = os.environ.get(named.target)
    if value is None:
        raise SecretAbsent(_("%(reference)s: the variable is not set", reference=named))
    if not value:
        raise SecretAbsent(_("%(reference)s: the variable is empty", reference=named))
    return value


@sensitive_variables()
def _from_file(named: Reference) -> str:
    try:
        content = _read(named.target)
    except OSError as error:
        raise SecretAbsent(f"{named}: {error.strerror or type(error).__name__}") from None
    if content is None:
        raise SecretAbsent(
            _("%(reference)s: it is not a file of at most %(most)d bytes", reference=named, most=MAX_BYTES)
        )
    try:
        secret = _LINE_END.sub("", content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SecretAbsent(_("%(reference)s: it does not hold text in UTF-8", reference=named)) from None
    if not secret:
        raise SecretAbsent(_("%(reference)s: the file is empty", reference=named))
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
