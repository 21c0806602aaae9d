"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.db import router, transaction
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OutboxConfig(AppConfig):
    """App configuration; add ``"prx_email_django"`` to INSTALLED_APPS."""

    name = "prx_email_django"
    label = "prx_email_django"
    verbose_name = _("Email outbox")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks; after ``migrate`` make declared accounts, and the schedule if django-q2 is installed."""
        from prx_email_django import checks  # noqa: F401, PLC0415  (models are ready only now)
        from prx_email_django.conf.reader import django_q_installed  # noqa: PLC0415

        post_migrate.connect(keep_accounts, sender=self, dispatch_uid="prx_email_django.accounts")
        if django_q_installed():
            post_migrate.connect(register_schedule, sender=self, dispatch_uid="prx_email_django.schedule")


def keep_accounts(*, using: str, **kwargs: Any) -> None:
    """Make the rows of the accounts that the settings declare, and keep them equal."""
    from prx_email_django.checks.accounts import has_accounts
    from prx_email_django.store.declared import keep_declared_accounts

    if has_accounts([using]):  # not before the first migration, after the last one back, or in a schema without it
        keep_declared_accounts()


def register_schedule(*, using: str, apps: Any = installed, **kwargs: Any) -> None:
    """Create or update the scheduled drain in django-q2's table, where a schedule's name is not unique.

    ``apps`` holds the models in the state after this migration.  An existing schedule keeps what a person may have set
    in the admin (minutes, repeats, cluster, next run).  Duplicates, created by two concurrent migrations, are deleted.
    """
    from prx_email_django import tasks
    from prx_email_django.conf import outbox_settings

    try:
        schedules = apps.get_model("django_q", "Schedule")
    except LookupError:  # its tables do not exist yet, or no longer
        return
    if not outbox_settings().auto_schedule or using != router.db_for_write(schedules):
        return
    values = {"func": tasks.SCHEDULED, "kwargs": repr({"q_options": tasks.q_options()})}
    rows = schedules.objects.using(using).filter(name=tasks.SCHEDULE_NAME)
    with transaction.atomic(using=using):
        found = list(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
        if not found:
            rows.create(name=tasks.SCHEDULE_NAME, schedule_type="I", minutes=1, repeats=-1, **values)
            return
        rows.filter(pk__in=found[1:]).delete()
        rows.filter(pk=found[0]).update(**values)
