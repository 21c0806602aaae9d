"""Takes functions of the app out of force, and puts them back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

#: What takes the broken rule back.
_UNDO: list[Callable[[], None]] = []


def mend() -> None:
    """Take back what was broken."""
    while _UNDO:
        _UNDO.pop()()


def put(owner: Any, name: str, value: Any) -> None:
    """Give an attribute another value."""
    _UNDO.append(partial(setattr, owner, name, vars(owner)[name]))
    setattr(owner, name, value)


def replace_everywhere(old: Callable[..., Any], new: Callable[..., Any], *modules: Any) -> None:
    """Replace a function in modules that have bound it."""
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is old:
                put(module, name, new)
