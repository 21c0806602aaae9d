"""Simulated callers: a web process that queues mail, and a person who operates the outbox."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import Error, connection
from django.db.models import F

from prx_email_django import api
from prx_email_django.errors import InvalidMessage, RetryRejected
from prx_email_django.models import OutboxMessage

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

#: Seconds after which some messages expire; some have before they are queued.
EXPIRE_IN = (0.0, 0.5, 10.0)


class _Caller:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.world = schedule.world
        self.random = schedule.random
        self.known = schedule.known
        self.kinds = schedule.kinds

    def guarded(self, act: Callable[[], object]) -> None:
        """Do something as a web request does: an error of the database ends it, and its connection."""
        try:
            act()
        except Error as error:
            self.schedule.may_break(error)
            connection.close()


class Web(_Caller):
    """It queues mail, and now and then sends at once."""

    def run(self) -> None:
        """A web process: it queues mail, and now and then sends at once."""
        has_limit = any(account.rate_limits for account in self.schedule.accounts)
        # A limit is met by many messages only; most other trouble is found by few, in less time.
        few, many = [1, 1, 1, 2, 2, 3], [5, 8, 12]
        for number in range(self.random.choice(many if has_limit or self.random.random() < 0.08 else few)):
            self.world.sleep(self.random.choice([0.0, 0.0, 0.3, 3.0]))
            if self.schedule.is_calm:
                break
            self.guarded(partial(self._queue, number))
        self.schedule.is_queued = True
        # Then it waits for requests that do not come.
        self.world.block(lambda: self.schedule.workers.are_stopped, float("inf"))

    def _queue(self, number: int) -> None:
        world = self.world
        account = self.random.choice(self.schedule.accounts)
        kinds = [f"m{number}r{index}@x.org" for index in range(self.random.choice([1, 1, 1, 2, 3]))]
        if self.random.random() < 0.1:
            kinds.append(f"bad{number}@x.org")
        arguments: dict[str, Any] = {
            "account": account,
            "to": kinds,
            "subject": f"message {number}",
            "body_text": "Hi.\n" + "x" * self.random.choice([0, 0, 100_000]),
            "envelope_from": f"from{number}@example.com",
            "on_unknown": self.random.choice([None, None, None, "hold"]),
            "priority": self.random.choice([0, 0, 5]),
        }
        if "people" in self.kinds and self.random.random() < 0.1:
            arguments["expires_at"] = world.wall() + timedelta(seconds=self.random.choice(EXPIRE_IN))
        try:
            self._give(arguments)
        except InvalidMessage as error:
            # Over before the call: it was given so, the machine slept, or the process stood still.
            if "expires_at" not in str(error) or arguments["expires_at"] > world.wall():
                raise
            world.tell(f"{arguments['subject']} is refused: {error}")
            self.known.refused_senders.add(arguments["envelope_from"])

    def _give(self, arguments: dict[str, Any]) -> None:
        world = self.world
        if self.random.random() < 0.15:
            self.known.singles += 1
            result = api.send(**arguments)
            self.known.results.append(result)
            world.tell(f"send gives {result.status} {result.error_code} {result.error} for message {result.outbox_id}")
            if "expires_at" in arguments:
                self.known.with_expiry.add(result.outbox_id)
            return
        if self.random.random() < 0.1:
            self._queue_many(arguments)
            return
        if "expires_at" not in arguments and self.random.random() < 0.3:  # a later call would come too late
            arguments["idempotency_key"] = f"key of {arguments['subject']}"
        row = self._queued(arguments)
        self.known.queued.add(row.pk)
        if "expires_at" in arguments:
            self.known.with_expiry.add(row.pk)

    def _queued(self, arguments: dict[str, Any]) -> OutboxMessage:
        """Queue a message; with a key, call until the database has answered, and perhaps once more."""
        key = arguments.get("idempotency_key")
        tries = self.random.choice([1, 2]) if key else 1
        while True:
            try:
                row = api.enqueue(**arguments)
            except Error:
                if not key or self.schedule.is_calm:
                    raise
                connection.close()
                self.world.sleep(1.0)
                continue
            tries -= 1
            if not tries:
                return row
            self.known.queued.add(row.pk)

    def _queue_many(self, arguments: dict[str, Any]) -> None:
        del arguments["account"]
        many = [{**arguments, "subject": f"{arguments['subject']} of many"} for _ in range(self.random.choice([1, 3]))]
        rows = api.enqueue_many(many, account=self.random.choice(self.schedule.accounts))
        self.known.queued.update(row.pk for row in rows)
        if "expires_at" in arguments:
            self.known.with_expiry.update(row.pk for row in rows)


class Person(_Caller):
    """They cancel, requeue, retry, confirm, pause and resume, and write rows by hand."""

    def run(self) -> None:
        """Do some of what the schedule allows."""
        acts: list[Callable[[], object]] = []
        if "people" in self.kinds:
            acts += [self._cancel, self._requeue, self._retry, self._pause, self._resume, self._confirm]
            acts.append(self._resend)
        for _ in range(self.random.choice([1, 3, 6])):
            self.world.sleep(self.random.choice([0.1, 1.0, 5.0]))
            self.guarded(self.random.choice(acts))

    def _pick(self) -> int | None:
        ids = list(OutboxMessage.objects.exclude(status="sent").order_by("pk").values_list("pk", flat=True))
        return self.random.choice(ids) if ids else None

    def _cancel(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.known.cancelled.add(pk)
            self.world.tell(f"cancels message {pk}: {api.cancel_outbox(pk)}")

    def _requeue(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.world.tell(f"requeues message {pk}: {api.requeue_outbox(pk, force=self.random.random() < 0.5)}")

    def _confirm(self) -> None:
        doubtful = OutboxMessage.objects.filter(status="failed", attempts__gt=F("retries")).order_by("pk").first()
        if doubtful is not None:
            self.known.confirmed.add(doubtful.pk)
            self.world.tell(f"confirms message {doubtful.pk}: {api.confirm_outbox(doubtful.pk)}")

    def _retry(self) -> None:
        pk = self._pick()
        if pk is None:
            return
        self.known.singles += 1
        try:
            result = api.retry_outbox(pk, force=self.random.random() < 0.7)
        except RetryRejected as error:
            self.world.tell(f"retries message {pk}: {error}")
        else:
            self.known.results.append(result)
            self.world.tell(f"retries message {pk}: {result.status} {result.error_code} {result.error}")

    def _resend(self) -> None:
        ids = list(OutboxMessage.objects.order_by("pk").values_list("pk", flat=True))
        if ids:
            pk = self.random.choice(ids)
            self.world.tell(f"sends message {pk} once more as message {api.resend_outbox(pk).pk}")

    def _pause(self) -> None:
        account = self.random.choice([None, *self.schedule.accounts])
        self.world.tell(f"pauses {account or 'everything'}")
        api.pause_outbox(account, reason="a person asked")

    def _resume(self) -> None:
        self.schedule.resume()


class Hand(_Caller):
    """Somebody who writes rows by hand in a shell, also those that are being sent."""

    def run(self) -> None:
        """Write when the schedule says so."""
        due: list[float] = []
        for _ in range(self.random.choice([1, 1, 2])):
            self.schedule.sometime(lambda: due.append(self.world.now))
        while not self.schedule.is_calm:
            self.world.block(lambda: bool(due) or self.schedule.is_calm, self.schedule.length)
            if due:
                due.pop()
                self.guarded(self._write_pending)

    def _write_pending(self) -> None:
        unsent = OutboxMessage.objects.exclude(status="sent").order_by("pk").values_list("pk", "status")
        ids = [pk for pk, status in unsent if status == "sending"] or [pk for pk, _ in unsent]
        if not ids:
            return
        pk = self.random.choice(ids)
        instants = self.known.by_hand.setdefault(pk, [])
        instants.append(self.world.uptime())
        rows = OutboxMessage.objects.filter(pk=pk).exclude(status="sent")
        count = rows.update(status="pending", next_attempt_at=self.world.wall(), claim_expires_at=None)
        instants[-1] = self.world.uptime()  # a slow database may have let somebody claim it meanwhile
        self.world.meet("pending by hand", "sending" if "sending" in dict(unsent).values() else "waiting")
        self.world.tell(f"writes pending over message {pk} ({count} row)")
