"""One list of parameters for the public functions that take a message."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")


def with_parameters_of(
    arguments: Callable[P, A], *, first: Callable[[Mapping[str, Any]], Any] | None = None
) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Give a function of one dataclass the dataclass's fields as its own keyword parameters.

    ``inspect.signature``, ``help`` and type checkers show each field with its default.  An unknown or missing keyword
    raises a ``TypeError`` that names the function.  ``first`` may answer a usual call from its keywords alone; None: it
    leaves the call to the function.
    """

    def decorate(function: Callable[[A], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if first is not None and not args and (answer := first(kwargs)) is not None:
                return answer  # type: ignore[no-any-return]
            try:
                given = arguments(*args, **kwargs)
            except TypeError as error:  # its text begins with the name of the dataclass's constructor
                raise TypeError(function.__name__ + str(error).partition("__init__")[2]) from None
            return function(given)

        shown = inspect.signature(arguments).replace(return_annotation=inspect.signature(function).return_annotation)
        hints = {**get_type_hints(arguments), "return": get_type_hints(function)["return"]}
        call.__annotations__ = {name: hints[name] for name in (*shown.parameters, "return")}
        call.__signature__ = shown  # type: ignore[attr-defined]
        return call

    return decorate
