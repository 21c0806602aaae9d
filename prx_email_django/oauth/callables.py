"""Calls a function of the host project: ``f(account) -> (token, expires_at | None)``, sync or async."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from django.db import connections
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.oauth.token import Token, TokenRefused, misconfigured, usable
from prx_email_django.oauth.token_request import TokenRequest
from prx_email_django.rules.words import words as _


def call(request: TokenRequest, *, timeout: float) -> Token:
    """Call the function that the account names, in this thread; an async function gets ``timeout`` seconds.

    Raises:
        TokenRefused: ``OAUTH_CALLABLES`` does not list the function, it raised, or it returned no usable token.
    """
    function = _load(request.callable)
    try:
        answer = function(request.account)
        if inspect.isawaitable(answer):  # also what a decorator around an async function returns
            answer = asyncio.run(_await(answer, timeout))
    except TokenRefused:
        raise
    except TimeoutError:
        raise TokenRefused(
            _("%(function)s gave no token within %(seconds)s s", function=request.callable, seconds=f"{timeout:g}"),
            permanent=False,
            code="timeout",
        ) from None
    except BaseException as error:  # noqa: BLE001  (of the host project, in a thread of ours: SystemExit ends no drain)
        raise TokenRefused(_raised(request.callable, error), permanent=False, code="callable") from None
    finally:
        connections.close_all()  # those of this thread, which ends now
    return _token(request.callable, answer)


async def _await(answer: Awaitable[object], timeout: float) -> object:
    async with asyncio.timeout(timeout):
        return await answer


def _load(path: str) -> Callable[[object], Any]:
    if path not in outbox_settings().oauth_callables:
        raise misconfigured(_("OAUTH_CALLABLES does not list the OAuth callable of the account"))
    try:
        function: Callable[[object], Any] = import_string(path)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            text = _("%(function)s can't be imported: there is no module %(module)s", function=path, module=error.name)
            raise misconfigured(text) from None
        raise misconfigured(_("%(function)s can't be imported", function=path)) from None
    except BaseException as error:  # noqa: BLE001  (a module of the host project may raise anything)
        raise misconfigured(_raised(path, error)) from None
    if not callable(function):
        raise misconfigured(_("%(function)s is not a function", function=path))
    return function


def _raised(path: str, error: BaseException) -> str:
    """Return which exception was raised on which line, without the text of the exception."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{path} raised {type(error).__name__} in {frame.name}, line {frame.lineno}"


@sensitive_variables()
def _token(path: str, answer: object) -> Token:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TokenRefused(
            _("%(function)s must return (token, expires_at | None)", function=path), permanent=True, code="answer"
        )
    token, expires_at = answer
    if expires_at is not None and (not isinstance(expires_at, datetime) or expires_at.utcoffset() is None):
        raise TokenRefused(
            _("%(function)s must return an aware datetime, or None", function=path), permanent=True, code="answer"
        )
    return Token(access_token=usable(token, permanent=True), expires_at=expires_at)
