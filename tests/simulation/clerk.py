"""A clerk who acts on messages in the middle of a drain, at best on one that is being sent; and a job that purges."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import IntegrityError

from prx_email_django import api
from prx_email_django.models import OutboxMessage
from tests.simulation.people import Caller, Person

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

#: Seconds after which a message that is over is purged.
PURGED_AFTER = (0.0, 0.5, 3.0)


class Clerk(Person):
    """They look at the outbox when something is accepted, and do what the admin or a shell offers."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        #: Changes of others until the clerk acts, and whether another process stands still until then.
        self._changes_left = 0
        self._is_waited_for = False
        schedule.database.on_change = self.heed_change

    def run(self) -> None:
        """Act when the schedule says so, or between two statements of another process."""
        acts: list[Callable[[], object]] = [
            *(self._cancel, self._requeue, self._retry, self._confirm, self._dismiss),
            *(self._move, self._move, self._pause, self._resume, self._erase, self._delete),
        ]
        if self.random.random() < 0.7:  # who does one thing again and again does it also at the wrong moment
            acts = [self.random.choice(acts)]
        if self.random.random() < 0.3:
            self.act_when_due(lambda: self.guarded(self.random.choice(acts)), count=self.random.choice([1, 2, 5]))
            return
        for _ in range(self.random.choice([1, 2, 5])):
            self._changes_left = self.random.choice([1, 1, 2, 3, 5])
            self.world.block(lambda: self._is_waited_for or self.schedule.is_calm, float("inf"))
            if self.schedule.is_calm:
                return
            self.guarded(self.random.choice(acts))
            self._is_waited_for = False

    def heed_change(self) -> None:
        """Another process has changed something: it goes on when the clerk has acted."""
        self._changes_left -= 1
        if self._changes_left == 0 and self.world.me.name != "clerk":
            self._is_waited_for = True
            self.world.block(lambda: not self._is_waited_for, 5.0)

    def _pick(self) -> int | None:
        """A message that is being sent, else any that is not sent."""
        unsent = OutboxMessage.objects.exclude(status="sent").order_by("pk").values_list("pk", "status")
        ids = [pk for pk, status in unsent if status == "sending"] or [pk for pk, _ in unsent]
        return self.random.choice(ids) if ids else None

    def _dismiss(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.world.tell(f"dismisses message {pk}: {api.dismiss_outbox(pk)}")

    def _move(self) -> None:
        pk = self._pick()
        if pk is None:
            return
        current = OutboxMessage.objects.filter(pk=pk).values_list("account_id", flat=True).first()
        account = next(account for account in self.schedule.accounts if account.pk != current)
        try:
            count = OutboxMessage.objects.filter(pk=pk).exclude(status="sent").update(account=account)
        except IntegrityError:  # its caller has queued it anew over the other account, under the same key
            return
        self.world.meet("move", self.world.me.statement)
        self.world.tell(f"moves message {pk} to {account.name} ({count} row)")

    def _delete(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.known.may_vanish = True
            self.known.deleted.add(pk)
            self.world.tell(f"deletes message {pk}: {OutboxMessage.objects.filter(pk=pk).delete()[0]} rows")


class Purge(Caller):
    """``purge_outbox --older-than``, as a scheduler starts it."""

    def run(self) -> None:
        """Purge when the schedule says so."""
        self.act_when_due(lambda: self.guarded(self._purge), count=self.random.choice([1, 3]))

    def _purge(self) -> None:
        self.known.may_vanish = True
        age = timedelta(seconds=self.random.choice(PURGED_AFTER))
        self.world.tell(f"purges what is older than {age.total_seconds():g} s: {api.purge_outbox(older_than=age)}")
