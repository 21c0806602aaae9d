"""Manager and base of the models for the database of the outbox, which the router names for ``OutboxMessage``."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from django.apps import apps
from django.db import connections, models, router

M = TypeVar("M", bound=models.Model)


def outbox_alias() -> str:
    """The alias of the outbox's database, for reading too: a replica that lags would show claimed rows as free."""
    return router.db_for_write(_outbox_message())


def outbox_connection() -> Any:
    """The thread's connection to the outbox's database; Django makes some twenty calls to find it."""
    return connections[outbox_alias()]


@cache
def _outbox_message() -> type[models.Model]:  # asked for with each statement
    return apps.get_model("prx_email_django", "OutboxMessage")


class OutboxManager(models.Manager[M]):
    """Manager whose queries go to ``outbox_alias()`` unless the caller names another database."""

    def get_queryset(self) -> models.QuerySet[M]:
        """A query set for the outbox's database."""
        queryset = super().get_queryset()
        return queryset if self._db else queryset.using(outbox_alias())


class OutboxModel(models.Model):
    """Base of the models, whose rows are all found by ``OutboxManager``, those of a relation too."""

    objects: ClassVar[OutboxManager[Self]] = OutboxManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"
