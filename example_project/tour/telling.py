"""What a step hands back, and how it insists on what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from example_project.catcher.inbox import Inbox


class Surprise(Exception):
    """Something did not end as the tour tells it."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a step ended, in a word or two, and what happened, line by line."""

    ended: str
    happened: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the steps work with."""

    var: Path
    inbox: Inbox
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table."""

    asked: str
    play: Callable[[Scene], Told]


def expect(what: str, found: object, wanted: object) -> None:
    """Raise ``Surprise`` unless the two are equal."""
    if found != wanted:
        raise Surprise(f"{what}: {found!r}, but {wanted!r} was expected")


def one_copy(scene: Scene, message_id: str | None) -> EmailMessage:
    """The message in the inbox, which must be there, and only once."""
    copies = scene.inbox.find(message_id)
    expect(f"copies of {message_id} in the inbox", len(copies), 1)
    return copies[0]
