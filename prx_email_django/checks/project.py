"""Checks of ``PRX_EMAIL``, and checks by ``check --deploy`` for production."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _

from prx_email_django.conf import OutboxSettings, outbox_settings
from prx_email_django.conf.problems import problems
from prx_email_django.conf.reader import NAME, use_tz
from prx_email_django.conf.table import SETTINGS
from prx_email_django.rules.words import in_words

TAG = "prx_email"
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def settings_in_force() -> OutboxSettings | None:
    """Return the settings, or None if they are invalid, which ``check_settings`` reports."""
    try:
        return outbox_settings()
    except ImproperlyConfigured:
        return None


@checks.register(TAG)
def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """Report all errors (E001–E005) and warnings (W001–W005) of ``PRX_EMAIL``."""
    return [
        checks.CheckMessage(
            problem.level, in_words(problem.message, _), hint=in_words(problem.hint, _), obj=NAME, id=problem.id
        )
        for problem in problems()
    ]


@checks.register(TAG)
def check_time_zones(**kwargs: Any) -> list[checks.CheckMessage]:
    """E006: without time zones, leases and due times would shift by an hour at each change of summer time."""
    if use_tz():
        return []
    hint = _("Set USE_TZ = True.")
    return [checks.Error(_("The outbox requires USE_TZ."), hint=hint, obj="USE_TZ", id="prx_email_django.E006")]


@checks.register(TAG, deploy=True)
def check_message_id_domain(**kwargs: Any) -> list[checks.CheckMessage]:
    """E007: two installations would use the same Message-IDs, and mailboxes drop a repeated Message-ID as a copy."""
    settings = settings_in_force()
    if settings is None or settings.message_id_domain != _DEFAULTS["MESSAGE_ID_DOMAIN"]:
        return []
    message = _('PRX_EMAIL["MESSAGE_ID_DOMAIN"] is the default: other installations use the same Message-IDs.')
    hint = _('Set a domain that no other installation uses: "mail.example.com".')
    return [checks.Error(message, hint=hint, obj=NAME, id="prx_email_django.E007")]


@checks.register(TAG, deploy=True)
def check_transport(**kwargs: Any) -> list[checks.CheckMessage]:
    """E008: the development transports accept messages and deliver none."""
    settings = settings_in_force()
    if settings is None or settings.transport == "smtp":
        return []
    message = _('PRX_EMAIL["TRANSPORT"] is "%(transport)s": no mail is delivered.') % {"transport": settings.transport}
    return [checks.Error(message, hint=_('Set "smtp".'), obj=NAME, id="prx_email_django.E008")]


@checks.register(TAG, deploy=True)
def check_instance(**kwargs: Any) -> list[checks.CheckMessage]:
    """W006: without ``INSTANCE`` a copy of the database would send the same messages."""
    settings = settings_in_force()
    if settings is None or settings.instance:
        return []
    message = _('PRX_EMAIL["INSTANCE"] is empty: a copy of this database, as in staging, would send its mail again.')
    hint = _('Name this installation, from its environment: PRX_EMAIL = {"INSTANCE": os.environ["INSTANCE"], …}.')
    return [checks.Warning(message, hint=hint, obj=NAME, id="prx_email_django.W006")]
