"""How far an attempt to open a session has come, and the errors that say so; knows no library."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket

from prx_email_django.rules.outcomes import Phase, Step, Trouble
from prx_email_django.rules.text import clean, redact
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp import auth as sasl
from prx_email_django.transports.smtp.connect import host_and_port
from prx_email_django.transports.smtp.replies import not_smtp

logger = logging.getLogger("prx_email_django")

#: How aiosmtplib begins the text about a line that is no reply.
_MALFORMED = "Malformed SMTP response line: "


class Progress:
    """The phase and the step that one attempt has reached."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.phase = Phase.CONNECT
        #: The last step that was done.
        self.reached: Step | None = None
        self.peer = ""
        #: When the wait for the next step began, on the event loop's clock.
        self._waits_since = asyncio.get_running_loop().time()

    def done(self, step: Step, detail: str) -> None:
        """The step is done; tell the caller."""
        self.reached, self._waits_since = step, asyncio.get_running_loop().time()
        self.settings.done(step, detail)

    @property
    def stage(self) -> str:
        """What the attempt waits for, in the words of an error; empty until there is a connection."""
        security = self.settings.security
        if self.phase is Phase.TLS:
            return "STARTTLS" if security == "starttls" else "TLS handshake"
        if self.phase is Phase.AUTH:
            return "login"
        if self.reached in (None, Step.RESOLVE):
            return ""
        is_greeted = self.reached in (Step.GREETING, Step.EXTENSIONS) or (self.reached, security) == (
            Step.TLS,
            "starttls",
        )
        return "EHLO" if is_greeted else "greeting"

    def silence(self, *, has_begun: bool) -> str:
        """Say what did not come in time, from where, and after which time; ``has_begun``: a part of it came."""
        # A caller's deadline may have ended the wait before the timeout.
        seconds = min(asyncio.get_running_loop().time() - self._waits_since, self.settings.timeout)
        where, waited = self.where, f"in {seconds:.0f} s" if seconds >= 1 else f"in {seconds:.1f} s"
        if has_begun:
            if self.stage == "greeting":
                return f"the greeting from {where} was not complete {waited}"
            return f"the answer to {self.stage} from {where} was not complete {waited}"
        match self.stage:
            case "":
                return f"no connection to {where} {waited}"
            case "login":
                return f"no answer to the login from {where} {waited}"
            case "EHLO":
                return f"no answer to EHLO from {where} {waited}"
            case "greeting":
                hint = "" if self.settings.security == "tls" else "; that port may begin with TLS"
                return f"no greeting from {where} {waited}{hint}"
        return f"no TLS handshake with {where} {waited}"

    def refused(self, code: int, text: str) -> ConnectError:
        """Return the error for a reply that ended the attempt.

        A reply to STARTTLS is about TLS, a 5yz to AUTH about the credentials, any other about the server.  A challenge
        (3yz) that the mechanism has no answer to counts as a 5yz to AUTH.  A throttled login says nothing about the
        credentials, but pauses as their refusal does: each further login would prolong that.
        """
        in_auth = self.phase is Phase.AUTH
        # aiosmtplib accepts any number as a code; and what greets with 200 (NNTP) has not refused anything in SMTP.
        if not (200 if in_auth else 400) <= code < 600:
            received = f"{code} {text}" if code > 0 else text.removeprefix(_MALFORMED)
            self._log_received(received)
            text, code = not_smtp(received.encode("utf-8", "replace")), 0
        text = sasl.without_secrets(text, self.settings)  # of the server's words only: a password may be one of ours
        enhanced = sasl.enhanced(text)
        disabled = enhanced in sasl.DISABLED
        unexpected = in_auth and 0 < code < 400
        throttled = in_auth and sasl.is_throttled(code, text)
        if disabled or unexpected or (in_auth and code >= 500):
            trouble, error_code = Trouble.AUTH, ErrorCode.AUTH
        elif throttled:
            trouble, error_code = Trouble.AUTH, ErrorCode.PROVIDER
        elif self.phase is Phase.TLS and code not in (0, 421):
            trouble, error_code = Trouble.TLS, ErrorCode.TLS
        else:
            trouble, error_code = Trouble.CONNECTION, ErrorCode.PROVIDER
        message = f"{self.stage}: {code} {text}".rstrip() if code else f"{self.stage}: {text}"
        if unexpected:
            message = f"the server asks for more than the mechanism has: {code} {text}"
        if throttled:
            message = f"the server throttles logins: {code} {text}"
        return self.connect_error(message, trouble, error_code, smtp_code=code, enhanced=enhanced)

    def _log_received(self, received: str) -> None:
        """Log what is not SMTP; no page shows it."""
        logger.warning(
            "%s sent what is not an SMTP reply: %s", self.where, redact(sasl.without_secrets(received, self.settings))
        )

    @property
    def where(self) -> str:
        """Host and port."""
        return host_and_port(self.settings.host, self.settings.port)

    def connect_error(
        self, text: str, trouble: Trouble, error_code: str, *, smtp_code: int = 0, enhanced: str = ""
    ) -> ConnectError:
        """Return the error; its text names host and port, because an account's form may hold another one by now."""
        where = self.where
        return ConnectError(
            clean(text if where in text else f"{where}: {text}"),
            phase=self.phase,
            trouble=trouble,
            error_code=error_code,
            smtp_code=smtp_code,
            enhanced=enhanced,
            peer=self.peer,
        )


def system_words(error: BaseException) -> str:
    """The error in the system's words: those of asyncio contain an address written as a Python tuple."""
    if isinstance(error, ConnectionResetError):
        return os.strerror(errno.ECONNRESET)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return clean(getattr(error, "strerror", None) or str(error)) or type(error).__name__
