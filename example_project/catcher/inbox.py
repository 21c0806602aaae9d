"""The maildir that the mail server writes and that the web page and the tour read."""

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
    """One message a file, in ``new``; a mail program that reads maildirs can open it too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("tmp", "new", "cur"):
            (path / folder).mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes, **envelope: str) -> str:
        """Keep a message, what was said about it on top as ``X-…`` fields; returns the name of its file."""
        name = f"{time.time_ns()}.{os.getpid()}_{next(_count)}.catcher"
        fields = "".join(f"X-{key.replace('_', '-').title()}: {value}\r\n" for key, value in envelope.items())
        temporary = self.path / "tmp" / name
        temporary.write_bytes(fields.encode() + content)
        temporary.rename(self.path / "new" / name)
        return name

    def names(self) -> list[str]:
        """The files, the newest first."""
        return sorted((one.name for one in (self.path / "new").iterdir()), reverse=True)

    def read(self, name: str) -> EmailMessage:
        """One message.  Raises ``KeyError`` where there is none of that name."""
        if name not in self.names():
            raise KeyError(name)
        return email.message_from_bytes((self.path / "new" / name).read_bytes(), policy=email.policy.default)

    def headers(self, limit: int | None = None) -> Iterator[tuple[str, EmailMessage]]:
        """Name and header of each message, the newest first."""
        parser = BytesHeaderParser(policy=email.policy.default)
        for name in self.names()[:limit]:
            with (self.path / "new" / name).open("rb") as file:
                header = parser.parse(file)
            assert isinstance(header, EmailMessage)  # noqa: S101  (what this policy makes)
            yield name, header

    def find(self, message_id: str | None) -> list[EmailMessage]:
        """Every copy of a message."""
        return [self.read(name) for name, header in self.headers() if header["Message-ID"] == message_id]
