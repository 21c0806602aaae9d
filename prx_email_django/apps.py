"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.db import router, transaction
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OutboxConfig(AppConfig):
    """Registered as ``prx_email_django`` in INSTALLED_APPS."""

    name = "prx_email_django"
    label = "prx_email_django"
    verbose_name = _("Email outbox")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and the schedule with django-q2 where that is installed."""
        from prx_email_django import checks, conf  # noqa: F401, PLC0415  (models are ready only now)

        if conf.django_q_installed():
            post_migrate.connect(register_schedule, sender=self, dispatch_uid="prx_email_django.schedule")


def register_schedule(*, using: str, apps: Any = installed, **kwargs: Any) -> None:
    """Put the scheduled drain into django-q2's table, once: a schedule's name is not unique there.

    ``apps`` are the models as this migration left them.  An existing schedule keeps what the admin may have set
    (minutes, repeats, cluster, next run); duplicates, left by two migrations at once, go.
    """
    from prx_email_django import tasks
    from prx_email_django.conf import outbox_settings

    try:
        schedules = apps.get_model("django_q", "Schedule")
    except LookupError:  # its tables are not there (yet, or any more)
        return
    if not outbox_settings().auto_schedule or using != router.db_for_write(schedules):
        return
    ours = {"func": tasks.SCHEDULED, "kwargs": repr({"q_options": tasks.q_options()})}
    rows = schedules.objects.using(using).filter(name=tasks.SCHEDULE_NAME)
    with transaction.atomic(using=using):
        found = list(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
        if not found:
            rows.create(name=tasks.SCHEDULE_NAME, schedule_type="I", minutes=1, repeats=-1, **ours)
            return
        rows.filter(pk__in=found[1:]).delete()
        rows.filter(pk=found[0]).update(**ours)
