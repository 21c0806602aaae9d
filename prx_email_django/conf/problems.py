"""All problems with ``PRX_EMAIL``, for the system checks: invalid and risky values, missing names and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from prx_email_django.conf.reader import prx_email
from prx_email_django.conf.values import Problem, attribute, contradictions, function_named, problem, read_values
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.words import words as _

#: With a shorter lease, a single slow statement of the database can make a live worker lose its claims.
_SHORT_LEASE = timedelta(seconds=30)


def problems() -> list[Problem]:
    """All problems with ``PRX_EMAIL``, for the system checks; they never hold an encryption key."""
    values, found = read_values()
    return [
        *found,
        *contradictions(values),
        *_risks(values),
        *_unimportable(values),
        *_lost_function(values),
        *_missing_files(values),
    ]


def _risks(values: Mapping[str, Any]) -> Iterator[Problem]:
    lease, deadline = values.get("lease"), values.get("send_deadline")
    if lease and lease < _SHORT_LEASE:
        message = _("is so short that workers lose their claims when the database is slow.")
        yield problem("LEASE", message, _("Write 30 or more; 180 is the default."), "W001")
    if lease and deadline and deadline > lease:
        hint = _("Write %(most)s or less, or a longer LEASE.", most=f"{lease.total_seconds():g}")
        yield problem("SEND_DEADLINE", _("is longer than LEASE."), hint, "W002")
    longest, end = values.get("max_backoff"), values.get("give_up_after")
    if longest and end and longest > end:
        hint = _("Write %(least)s or more, or a smaller MAX_BACKOFF.", least=f"{longest.total_seconds():g}")
        message = _("is shorter than MAX_BACKOFF: a message may expire without another attempt.")
        yield problem("GIVE_UP_AFTER", message, hint, "W003")


def _unimportable(values: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("TRANSFORM_MIME", "WAKE", "ACCOUNT_ROUTER", "OAUTH_CALLABLES", "CREDENTIAL_KEYS"):
        value = values.get(attribute(key))
        paths = value if key == "OAUTH_CALLABLES" else (value,)
        for path in paths or ():
            if isinstance(path, str) and path and function_named(path) is None:
                hint = _(
                    "Write the dotted path of a function that can be imported; those of contrib need their extra (pip)."
                )
                message = _('must name a function; "%(path)s" is none that can be imported.', path=path)
                yield problem(key, message, hint, "E005")


def _lost_function(values: Mapping[str, Any]) -> Iterator[Problem]:
    """A domain that is spelt as a module of this project and something that the module does not have."""
    path = prx_email().get("MESSAGE_ID_DOMAIN") if "message_id_domain" in values else None
    if not isinstance(path, str) or function_named(path) is not None:
        return
    module = path.rpartition(".")[0]
    if _is_domain(path) and not ("." in module and _is_module(module)):
        return
    hint = _("Write a domain, or the dotted path of a function that returns it and can be imported.")
    message = _('names no function; "%(path)s" is none that can be imported.', path=path)
    yield problem("MESSAGE_ID_DOMAIN", message, hint, "E005")


def _is_domain(text: str) -> bool:
    try:
        return bool(ascii_domain(text))
    except ValueError:
        return False


def _is_module(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _missing_files(values: Mapping[str, Any]) -> Iterator[Problem]:
    store, authorities = values.get("attachment_store"), values.get("tls_ca_file")
    if store and not store.is_dir():
        yield problem("ATTACHMENT_STORE", _("is not a directory here."), _("Create it, or write None."), "W004")
    if authorities and not authorities.is_file():
        yield problem("TLS_CA_FILE", _("is not a file here."), _("Create it, or write None."), "W005")
