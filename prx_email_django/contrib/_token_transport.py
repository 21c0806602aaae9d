"""The HTTP of google-auth and msal: the app's own client, so that their requests keep to the same rules as ours.

Verified TLS with ``TLS_CA_FILE``, hosts of ``ACCOUNT_HOSTS`` judged by the address that is dialled, no redirects, a
time limit, and the proxies of the environment.  Neither library then needs ``requests`` to connect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlencode

from django.views.decorators.debug import sensitive_variables

from prx_email_django.oauth.token import TokenRefused
from prx_email_django.oauth.token_server import answer_of, exchange, refusal

#: Seconds for one request.
TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with the attributes that google-auth (``status``, ``data``) and msal (``text``…) read."""

    status: int
    headers: Mapping[str, str]
    data: bytes = field(repr=False)

    @property
    def status_code(self) -> int:
        """The status, as requests names it."""
        return self.status

    @property
    def text(self) -> str:
        """The body as text."""
        return self.data.decode("utf-8", "replace")

    def raise_for_status(self) -> None:
        """Raise ``TokenRefused`` for an error, without the body of the answer."""
        if self.status >= 400:
            raise TokenRefused(f"the token server answered HTTP {self.status}", permanent=False, code="http")


class Transport:
    """Callable for google-auth (``google.auth.transport.Request``), and ``http_client`` of msal."""

    def __init__(self) -> None:
        self.last: Answer | None = None

    @sensitive_variables()
    def __call__(
        self, url: str, method: str = "GET", body: Any = None, headers: Any = None, timeout: Any = None, **_: Any
    ) -> Answer:
        """Send one request."""
        content = body.encode() if isinstance(body, str) else body
        status, headers_in, data = exchange(method, url, content, headers=headers or {}, timeout=TIMEOUT)
        # msal looks for lower-case names, as the dictionary of requests finds them in any case.
        names = {name: value for key, value in headers_in.items() for name in (key, key.lower())}
        self.last = Answer(status, names, data)
        return self.last

    @sensitive_variables()
    def post(self, url: str, params: Any = None, data: Any = None, headers: Any = None, **_: Any) -> Answer:
        """POST ``data`` as a form, or as it is where it is text; return the token server's answer."""
        body = urlencode(data) if isinstance(data, Mapping) else data
        kind = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        return self(_with_query(url, params), "POST", body, kind)

    def get(self, url: str, params: Any = None, headers: Any = None, **_: Any) -> Answer:
        """Get a document."""
        return self(_with_query(url, params), "GET", None, headers)

    def close(self) -> None:
        """Do nothing: each request closes its connection."""

    def refuse(self) -> NoReturn:
        """Raise what the last answer means.

        Raises:
            TokenRefused: always.
        """
        if self.last is None or self.last.status == 200:
            raise TokenRefused("the answer has no usable access token", permanent=False, code="answer")
        raise refusal(self.last.status, answer_of(self.last.data), self.last.headers)


def _with_query(url: str, params: Any) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(params)}" if params else url
