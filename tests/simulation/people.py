"""Simulated callers: a web process that queues mail, and a person who operates the outbox."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import Error, connection
from django.db.models import F

from prx_email_django import api
from prx_email_django.errors import AccountUnavailable, InvalidMessage, RetryRejected
from prx_email_django.models import Account, OutboxMessage, Recipient
from tests.simulation.known import Stop

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

#: Seconds after which some messages expire; some have before they are queued.
EXPIRE_IN = (0.0, 0.5, 10.0)
#: Seconds after which some messages are due.
LATER = (0.7, 3.0, 9.0)


class Caller:
    """Somebody who calls the app, in a process of their own."""

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
        except OutboxMessage.DoesNotExist:
            if not self.known.may_vanish:
                raise
            self.world.tell("ends, since its message was deleted")

    def act_when_due(self, act: Callable[[], object], *, count: int) -> None:
        """Act so many times: at instants by chance, or about the time at which a message is accepted."""
        due: list[float] = []
        for _ in range(count):
            self.schedule.sometime(lambda: due.append(self.world.now))
        while not self.schedule.is_calm:
            self.world.block(lambda: bool(due) or self.schedule.is_calm, self.schedule.length)
            if due:
                due.pop()
                act()


class Web(Caller):
    """It queues mail, and now and then sends at once."""

    def run(self) -> None:
        """A web process: it queues mail, and now and then sends at once."""
        has_limit = any(account.rate_limits for account in self.schedule.accounts)
        # A limit is met by many messages only; most other trouble is found by few, in less time.
        few, many = [1, 1, 1, 2, 2, 3], [5, 8, 12]
        if "quotas" in self.kinds:  # few fill a quota, and each takes hours
            many = [4, 6]
        if "clerks" in self.kinds:  # who need something to act on
            few = [2, 3, 5]
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
        counts = [1, 1, 3, 3, 3] if "clerks" in self.kinds else [1, 1, 1, 2, 3]
        kinds = [f"m{number}r{index}@x.org" for index in range(self.random.choice(counts))]
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
        if self.random.random() < 0.05:
            arguments["is_sensitive"] = True
        if self.random.random() < 0.05:
            arguments["send_at"] = world.wall() + timedelta(seconds=self.random.choice(LATER))
        elif "people" in self.kinds and self.random.random() < 0.1:
            arguments["expires_at"] = world.wall() + timedelta(seconds=self.random.choice(EXPIRE_IN))
        if "patience" in self.kinds and "send_at" not in arguments and self.random.random() < 0.4:
            arguments["expires_at"] = world.wall() + timedelta(seconds=self.random.choice(EXPIRE_IN))
        try:
            self._give(arguments)
        except InvalidMessage as error:
            # Over before the call: it was given so, the machine slept, or the process stood still.
            if "expires_at" not in str(error) or arguments["expires_at"] > world.wall():
                raise
            world.tell(f"{arguments['subject']} is refused: {error}")
            self.known.refused_senders.add(arguments["envelope_from"])
        except AccountUnavailable:
            if "operators" not in self.kinds:
                raise
            self.known.refused_senders.add(arguments["envelope_from"])

    def _give(self, arguments: dict[str, Any]) -> None:
        world = self.world
        share = 0.4 if "clerks" in self.kinds else 0.15
        if "send_at" not in arguments and self.random.random() < share:
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
        if "send_at" in arguments:
            sent_at = (arguments["send_at"] - world.wall()).total_seconds()
            self.known.not_before[row.pk] = world.uptime() + sent_at
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


class Person(Caller):
    """They cancel, requeue, retry, confirm, pause and resume, and write rows by hand."""

    def run(self) -> None:
        """Do some of what the schedule allows."""
        acts: list[Callable[[], object]] = []
        if "people" in self.kinds:
            acts += [self._cancel, self._requeue, self._retry, self._pause, self._resume, self._confirm]
            acts.append(self._resend)
        if "operators" in self.kinds:
            acts += [self._change_account, self._switch_off, self._adopt, self._erase]
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
            self.known.asked.add(pk)
            self.world.tell(f"requeues message {pk}: {api.requeue_outbox(pk, force=self.random.random() < 0.5)}")

    def _confirm(self) -> None:
        doubtful = OutboxMessage.objects.filter(status="failed", attempts__gt=F("retries")).order_by("pk").first()
        if doubtful is not None:
            self.known.confirmed.add(doubtful.pk)
            self.known.asked.add(doubtful.pk)
            self.world.tell(f"confirms message {doubtful.pk}: {api.confirm_outbox(doubtful.pk)}")

    def _retry(self) -> None:
        pk = self._pick()
        if pk is None:
            return
        self.known.singles += 1
        self.known.asked.add(pk)
        try:
            result = api.retry_outbox(pk, force=self.random.random() < 0.7)
        except (RetryRejected, AccountUnavailable) as error:
            self.world.tell(f"retries message {pk}: {error}")
        else:
            self.known.results.append(result)
            self.world.tell(f"retries message {pk}: {result.status} {result.error_code} {result.error}")

    def _resend(self) -> None:
        ids = list(OutboxMessage.objects.order_by("pk").values_list("pk", flat=True))
        if ids:
            pk = self.random.choice(ids)
            try:
                again = api.resend_outbox(pk)
            except (RetryRejected, AccountUnavailable) as error:  # sensitive, or deleted
                self.world.tell(f"sends message {pk} once more: {error}")
            else:
                self.world.tell(f"sends message {pk} once more as message {again.pk}")

    def _pause(self) -> None:
        account = self.random.choice([None, *self.schedule.accounts])
        self.world.tell(f"pauses {account or 'everything'}")
        seconds = self.random.choice([None, None, 3.0])
        until = None if seconds is None else self.world.wall() + timedelta(seconds=seconds)
        ends = float("inf") if seconds is None else self.world.uptime() + seconds
        api.pause_outbox(account, reason="a person asked", until=until)
        if until is not None:  # in place of a pause of before
            self._end_stops(account)
        self._stop(account, ends=ends)

    def _stop(self, account: Account | None, *, ends: float = float("inf")) -> None:
        """From now on nothing is claimed."""
        self.known.stops.append(Stop(account.pk if account else None, self.world.uptime(), ends))

    def _end_stops(self, account: Account | None) -> None:
        now, pk = self.world.uptime(), account.pk if account else None
        for stop in self.known.stops:
            if stop.account == pk:
                stop.ends = min(stop.ends, now)

    # What operators do

    def _change_account(self) -> None:
        account = Account.objects.get(pk=self.random.choice(self.schedule.accounts).pk)
        name, value = self.random.choice(
            [("max_connections", 1), ("max_connections", 2), ("rate_limits", ""), ("rate_limits", "5/minute"),
             ("pipelining", "off"), ("pipelining", "chunked"), ("max_in_flight", 4), ("password", "another")]
        )  # fmt: skip
        if name == "password" and account.auth_method != "password":
            return
        if name != "password":
            self.known.changed.add(account.pk)
        self.world.tell(f"sets {name} of {account.name} to {value!r}")
        setattr(account, name, value)
        account.save(update_fields=[name])

    def _switch_off(self) -> None:
        account = Account.objects.get(pk=self.random.choice(self.schedule.accounts).pk)
        self.world.tell(f"switches {account.name} {'off' if account.is_active else 'on'}")
        account.is_active = not account.is_active
        if account.is_active:
            self._end_stops(account)
        account.save(update_fields=["is_active"])
        if not account.is_active:
            self._stop(account)

    def _adopt(self) -> None:
        newest = OutboxMessage.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        self.known.adoptions.append((float("inf"), newest))
        self.world.tell("begins an adoption")
        self.world.tell(f"adopts {api.adopt_outbox()} messages")
        self.known.adoptions[-1] = (self.world.uptime(), newest)

    def _erase(self) -> None:
        addresses = list(Recipient.objects.order_by("pk").values_list("address", flat=True))
        if not addresses:
            return
        address = self.random.choice(addresses)
        self.known.erased[address] = float("inf")
        self.known.may_vanish = True
        report = api.erase_address(address)
        self.known.erased[address] = self.world.uptime()
        self.known.left.update(report.left)
        self.world.tell(f"erases {address}: {report}")

    def _resume(self) -> None:
        self.schedule.resume()


class Hand(Caller):
    """Somebody who writes rows by hand in a shell, also those that are being sent."""

    def run(self) -> None:
        """Write when the schedule says so."""
        self.act_when_due(lambda: self.guarded(self._write_pending), count=self.random.choice([1, 1, 2]))

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
