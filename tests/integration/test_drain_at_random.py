"""Random queues through whole drains, on a real database: what is due goes, once, whatever the statements read.

The simulation (``tests/simulation``) tries the order of events; this test tries the databases: their planners choose by
what a table holds.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules.pauses import is_paused
from prx_email_django.states import WAITING
from prx_email_django.transports.memory import shared
from tests.support.factories import account, in_threads

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

#: A backoff with its spread is shorter.
LONG = timedelta(hours=13)


class Queue:
    """Accounts with messages of all kinds, and what is known of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = timezone.now() + timedelta(hours=1)
        self.accounts = [
            account(
                f"a{n}", max_connections=self.chance.choice([1, 2, 8]), max_in_flight=self.chance.choice([1, 4, 16])
            )
            for n in range(self.chance.randint(1, 4))
        ]
        self.count = 0
        #: Recipients that had an attempt of unknown outcome.
        self.doubted: set[str] = set()

    def add(self) -> None:
        """Queue some messages, one by one or together."""
        mails = [self._mail() for _ in range(self.chance.choice([1, 1, 2, 5, 20, 60]))]
        owner = self.chance.choice(self.accounts)
        if self.chance.random() < 0.5:
            prx.enqueue_many(mails, account=owner)
        else:
            for mail in mails:
                prx.enqueue(account=self.chance.choice(self.accounts), now=self.now, **mail)

    def _mail(self) -> dict[str, Any]:
        chance, self.count = self.chance, self.count + 1
        kinds = ["ok"] * 6 + ["bad", "later"]
        to = [f"{chance.choice(kinds)}.{self.count}.{n}@example.org" for n in range(chance.choice([1, 1, 1, 3]))]
        for address in to:
            if address.startswith("bad"):
                shared.refuse(address)
            elif address.startswith("later"):
                shared.defer(address)
        mail: dict[str, Any] = {"to": to, "subject": f"s{self.count}", "body_text": "text"}
        mail["priority"] = chance.choice([0, 0, 0, 10, -10, chance.randint(-10, 10)])
        if chance.random() < 0.2:
            mail["send_at"] = self.now + timedelta(minutes=chance.choice([-90, 30, 600]))
        if chance.random() < 0.1:
            mail["on_unknown"] = "hold"
        return mail

    def trouble(self) -> None:
        """Let some next attempts fail."""
        for _ in range(self.chance.randint(0, 3)):
            phase, reply = self.chance.choice([("mail", "451 4.3.0 later"), ("body", "451 4.3.0 later"), ("body", "")])
            shared.fail_next(phase, reply, accept=not reply and self.chance.random() < 0.5)

    def step(self) -> None:
        """People do something."""
        pks = list(OutboxMessage.objects.values_list("pk", flat=True))
        some = self.chance.sample(pks, min(len(pks), 5))
        match self.chance.randint(0, 5):
            case 0:
                prx.cancel_outbox(some[:2], now=self.now)
            case 1:
                prx.requeue_outbox(some, now=self.now)
            case 2:
                prx.pause_outbox(self.chance.choice(self.accounts), reason="a test")
            case 3:
                for owner in self.accounts:
                    prx.resume_outbox(owner)
            case _:
                self.now += timedelta(minutes=self.chance.choice([1, 30, 300]))

    def due(self) -> list[tuple[Any, ...]]:
        """What waits and is due, of accounts that are not paused."""
        rows = OutboxMessage.objects.filter(status__in=WAITING, next_attempt_at__lte=self.now)
        paused = [owner.pk for owner in self.accounts if is_paused(account_state(owner), now=self.now)]
        return list(rows.exclude(account__in=paused).values_list("pk", "account", "priority", "status", "last_error"))

    def check(self) -> None:
        """Nobody is served twice but after a doubt; who is recorded as served was."""
        doubts = DeliveryAttempt.objects.filter(outcome="unknown").values_list(
            "message__recipients__address", flat=True
        )
        self.doubted |= set(doubts)
        served = Counter(address for delivered in shared.delivered for address in delivered.recipients)
        for address, times in served.items():
            assert times == 1 or address in self.doubted, f"{address} was served {times} times"
        for address, result in Recipient.objects.values_list("address", "result"):
            if result == "accepted":
                assert served[address], f"{address} was not served"
        assert not OutboxMessage.objects.filter(status="sending").exists()
        assert not OutboxMessage.objects.filter(attempts__lt=F("retries")).exists()


@pytest.mark.parametrize("seed", range(4))
def test_a_drain_leaves_nothing_that_is_due(seed: int) -> None:
    queue = Queue(seed)
    for _ in range(queue.chance.randint(3, 8)):
        queue.add()
        queue.trouble()
        if queue.chance.random() < 0.3:
            reports = in_threads(*[lambda: prx.drain(now=queue.now)] * 2)
            assert not [report for report in reports if isinstance(report, Exception)], reports
        prx.drain(now=queue.now)
        assert not queue.due()
        queue.check()
        queue.step()
    for owner in queue.accounts:
        prx.resume_outbox(owner)
    for _ in range(12):
        queue.now += LONG
        prx.drain(now=queue.now)
        assert not queue.due()
    queue.check()
    left = OutboxMessage.objects.exclude(status="sent").filter(next_attempt_at__isnull=False)
    assert not left, list(left.values_list("pk", "status", "last_error"))
