"""What a process prints, readable while it runs: a pipe, which unlike a file has no size that a limit could stop."""

from __future__ import annotations

import os
import threading


class Output:
    """Collects what is written to ``writer``, which is closed once the process has it."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """Everything that has been printed until now."""
        return b"".join(self._chunks).decode(errors="replace")

    def handed_over(self) -> None:
        """Close our end of the pipe: the process has its own."""
        os.close(self.writer)

    def complete(self) -> str:
        """Everything that the process has printed; it has ended, but a child of it may hold the pipe open."""
        self._thread.join(2)
        return self.text

    def _read(self) -> None:
        while chunk := os.read(self._reader, 65536):
            self._chunks.append(chunk)
        os.close(self._reader)
