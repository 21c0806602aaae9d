"""Checks of Django's own mail settings: MAILERS, and logging handlers that send mail."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.utils.log import AdminEmailHandler
from django.utils.translation import gettext as _

from prx_email_django.conf.declared import SMTP_OPTIONS
from prx_email_django.conf.reader import admins, email_backend, mailers
from prx_email_django.django_mail.backend_options import option_problems, outbox_options
from prx_email_django.rules.spelling import closest
from prx_email_django.rules.words import in_words

#: The id that reports an invalid value of an option.
_OPTION_IDS = {"account": "E031", "priority": "E032", "expires_after": "E033", "on_unknown": "E034"}
#: Loggers whose handlers receive the log records of this app.
_LOGGERS = ("", "prx_email_django")


def check_mailers(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """E030: an unknown option in MAILERS.  E031 to E034: an invalid value.  E035: an account and a server are named.

    Django itself reports both only when the first message is sent.
    """
    found: list[checks.CheckMessage] = []
    for alias, entry in (mailers() or {}).items():
        settings: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
        known, options = outbox_options(settings.get("BACKEND")), settings.get("OPTIONS")
        if known and isinstance(options, Mapping):
            found += _unknown_options(alias, options, known)
            found += _bad_values(alias, options)
            found += _two_servers(alias, options)
    return found


def check_admin_email_handler(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W030: ADMINS is set, and a logging handler mails the errors of this app through this app's own backend."""
    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    if not admins() or not any(_mails_through_outbox(handler) for handler in handlers):
        return []
    return [
        checks.Warning(
            _(
                "A logging handler mails this app's errors through this app: a failed delivery causes more mail, "
                "and an error of the database cannot be queued in that database."
            ),
            hint=_("Give AdminEmailHandler a plain SMTP mailer: 'using' (from Django 6.1 on), else 'email_backend'."),
            id="prx_email_django.W030",
        )
    ]


def _unknown_options(alias: object, options: Mapping[str, Any], known: frozenset[str]) -> Iterator[checks.CheckMessage]:
    for name in options:
        if name not in known:
            meant = closest(str(name), sorted(known))
            hint = (
                _("Did you mean %(meant)s?") % {"meant": f"{meant!r}"}
                if meant
                else _("Known options: %(names)s.") % {"names": ", ".join(sorted(known))}
            )
            yield _error(
                alias, _("%(name)s is not an option of the outbox backend.") % {"name": f"{str(name)!r}"}, hint, "E030"
            )


def _bad_values(alias: object, options: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    values = {name: options[name] for name in _OPTION_IDS if name in options}
    for problem in option_problems(**values):
        yield _error(
            alias,
            _("%(name)s %(problem)s.") % {"name": repr(problem.name), "problem": in_words(problem.message, _)},
            in_words(problem.hint, _),
            _OPTION_IDS[problem.name],
        )


def _two_servers(alias: object, options: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    said = [name for name in SMTP_OPTIONS if options.get(name) not in (None, "")]
    if said and options.get("account"):
        hint = _("Keep 'account', or the options of Django's SMTP backend.")
        yield _error(alias, _("'account' and %(names)s name two servers.") % {"names": ", ".join(said)}, hint, "E035")


def _error(alias: object, message: str, hint: str, rule: str) -> checks.Error:
    return checks.Error(
        f"MAILERS[{alias!r}] OPTIONS: {message}",
        hint=hint,
        id=f"prx_email_django.{rule}",
    )


def _mails_through_outbox(handler: logging.Handler) -> bool:
    if not isinstance(handler, AdminEmailHandler):
        return False
    configured = mailers()
    if configured is None:
        return bool(outbox_options(handler.email_backend or email_backend()))
    entry = configured.get(getattr(handler, "using", None) or "default")
    return isinstance(entry, Mapping) and bool(outbox_options(entry.get("BACKEND")))
