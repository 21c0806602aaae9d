"""What the settings say: ``PRX_EMAIL`` itself, and what ``check --deploy`` finds missing for production."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from prx_email_django import conf

TAG = "prx_email"
_DEFAULTS = {one.name: one.default for one in conf.SETTINGS}


def settings_in_force() -> conf.OutboxSettings | None:
    """The settings; None where they cannot be read, which ``check_settings`` reports."""
    try:
        return conf.outbox_settings()
    except ImproperlyConfigured:
        return None


@checks.register(TAG)
def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Everything that is wrong or unwise in ``PRX_EMAIL`` (E001–E005, W001–W005)."""
    return [
        checks.CheckMessage(one.level, one.message, hint=one.hint, obj=conf.NAME, id=one.id) for one in conf.problems()
    ]


@checks.register(TAG)
def check_time_zones(**_: Any) -> list[checks.CheckMessage]:
    """E006: leases and due times are instants; without zones they shift with the clock of summer."""
    if conf.use_tz():
        return []
    hint = "Write USE_TZ = True."
    return [checks.Error("The outbox needs USE_TZ.", hint=hint, obj="USE_TZ", id="prx_email_django.E006")]


@checks.register(TAG, deploy=True)
def check_message_id_domain(**_: Any) -> list[checks.CheckMessage]:
    """E007: two installations would use the same Message-IDs, and mailboxes drop a repeated one as a copy."""
    settings = settings_in_force()
    if settings is None or settings.message_id_domain != _DEFAULTS["MESSAGE_ID_DOMAIN"]:
        return []
    message = 'PRX_EMAIL["MESSAGE_ID_DOMAIN"] is the default: other installations use the same Message-IDs.'
    hint = 'Write a domain of your own, which no other installation uses: "mail.example.com".'
    return [checks.Error(message, hint=hint, obj=conf.NAME, id="prx_email_django.E007")]


@checks.register(TAG, deploy=True)
def check_transport(**_: Any) -> list[checks.CheckMessage]:
    """E008: a transport for development takes mail and delivers none."""
    settings = settings_in_force()
    if settings is None or settings.transport == "smtp":
        return []
    message = f'PRX_EMAIL["TRANSPORT"] is "{settings.transport}": no mail is delivered.'
    return [checks.Error(message, hint='Write "smtp".', obj=conf.NAME, id="prx_email_django.E008")]


@checks.register(TAG, deploy=True)
def check_instance(**_: Any) -> list[checks.CheckMessage]:
    """W006: a copy of the database would mail the same people."""
    settings = settings_in_force()
    if settings is None or settings.instance:
        return []
    message = 'PRX_EMAIL["INSTANCE"] is empty: a copy of this database, in staging or restored, would send its mail.'
    hint = 'Name this installation, from its environment: PRX_EMAIL = {"INSTANCE": os.environ["INSTANCE"], …}.'
    return [checks.Warning(message, hint=hint, obj=conf.NAME, id="prx_email_django.W006")]
