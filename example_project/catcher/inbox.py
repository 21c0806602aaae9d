"""The maildir that the mail server writes; the web page and the demo read it."""

from __future__ import annotations

import email
import email.policy
import itertools
import os
import time
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path

_count = itertools.count(1)


class Inbox:
    """A maildir: one file for each message, in ``new``.  Mail programs can open it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("tmp", "new", "cur"):
            (path / folder).mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes, **envelope: str) -> str:
        """Store a message with its envelope as ``X-…`` header fields; return the name of its file."""
        name = f"{time.time_ns()}.{os.getpid()}_{next(_count)}.catcher"
        fields = "".join(f"X-{key.replace('_', '-').title()}: {value}\r\n" for key, value in envelope.items())
        temporary = self.path / "tmp" / name
        temporary.write_bytes(fields.encode() + content)
        temporary.rename(self.path / "new" / name)
        return name

    def names(self) -> list[str]:
        """Return the file names, newest first."""
        return sorted((path.name for path in (self.path / "new").iterdir()), reverse=True)

    def read(self, name: str) -> EmailMessage:
        """Return one message.  Raises ``KeyError`` if there is no file with this name."""
        if name not in self.names():
            raise KeyError(name)
        return email.message_from_bytes((self.path / "new" / name).read_bytes(), policy=email.policy.default)

    def headers(self, limit: int | None = None) -> Iterator[tuple[str, EmailMessage]]:
        """Yield name and header of each message, newest first."""
        parser = BytesHeaderParser(policy=email.policy.default)
        for name in self.names()[:limit]:
            with (self.path / "new" / name).open("rb") as file:
                header = parser.parse(file)
            assert isinstance(header, EmailMessage)  # noqa: S101  (this policy creates EmailMessage)
            yield name, header

    def find(self, message_id: str | None) -> list[EmailMessage]:
        """Return every copy of a message."""
        return [self.read(name) for name, header in self.headers() if header["Message-ID"] == message_id]
