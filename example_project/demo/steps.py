"""A step of the demo, its result, and the checks by which a step proves its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from example_project.catcher.inbox import Inbox


class UnexpectedResult(Exception):
    """A step did not end as expected."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended, in a few words, and what happened, line by line."""

    outcome: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoContext:
    """Folder, inbox and ports of the demo."""

    var: Path
    inbox: Inbox
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a title and the function that runs it."""

    title: str
    run: Callable[[DemoContext], StepResult]


def expect(name: str, found: object, expected: object) -> None:
    """Raise ``UnexpectedResult`` unless the two values are equal."""
    if found != expected:
        raise UnexpectedResult(f"{name}: {found!r}, but {expected!r} was expected")


def single_copy(context: DemoContext, message_id: str | None) -> EmailMessage:
    """Return the message with this Message-ID; it must be in the inbox exactly once."""
    copies = context.inbox.find(message_id)
    expect(f"copies of {message_id} in the inbox", len(copies), 1)
    return copies[0]
