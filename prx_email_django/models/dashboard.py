"""A name in the admin's index for the operator's page; it has no table of its own."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from prx_email_django.models.managers import OutboxModel
from prx_email_django.models.runtime_state import OutboxState


class Outbox(OutboxState):
    """The whole outbox, as the operator's page shows it."""

    class Meta(OutboxModel.Meta):
        proxy = True
        default_permissions = ()
        verbose_name = _("dashboard")
        # The space puts it before the others: Django's index sorts by this name, and a browser does not show the space.
        verbose_name_plural = _(" Dashboard")
