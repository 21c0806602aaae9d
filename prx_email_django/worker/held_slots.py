"""The connection slots that the worker of an account holds, from the statement that takes one to its release."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prx_email_django.limits.slots import Slot, release_doubtful, release_slots, slots_or_obstacle
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle
from prx_email_django.worker.current import CurrentAccount


class HeldSlots:
    """Slots with and without a connection; a slot without one waits for the next connection.

    ``used`` are the slots that connections have.
    """

    def __init__(self, current: CurrentAccount, *, clock: Clock) -> None:
        self.current = current
        self.clock = clock
        self._slots: set[Slot] = set()
        #: Those of closed connections, which are about to be released.
        self._dropped: set[Slot] = set()
        #: Slots that were asked for.  They may be held too, if the drain ended while it took them.
        self._noted: set[Slot] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """Take over a slot that somebody else has acquired."""
        self._slots.add(slot)

    def give_away(self, slot: Slot) -> None:
        """Forget a slot that somebody else has taken over."""
        self._slots.discard(slot)
        self._noted.discard(slot)

    def take(self, wanted: int, *, used: Collection[Slot]) -> Slot | Obstacle:
        """A slot for one more connection; ``wanted``: how many are to be opened, whose slots are taken together.

        Pauses are heeded unless a person, or the probe of a suspicion, passes them by.
        """
        account = self.current.account
        for slot in self._slots.difference(used):
            if slot.has_time_left() and slot.number <= account.max_connections:
                return slot
            self._release([slot])
        heeds = self.current.heeds_pause and self.current.early_probe is None
        heeding = self.current.state if heeds else None
        fresh = slots_or_obstacle(account, wanted, noted=self._noted, clock=self.clock, heeding=heeding)
        if isinstance(fresh, Obstacle):
            return fresh
        self._slots.update(fresh)
        return fresh[0]

    def drop(self, slot: Slot) -> None:
        """Let ``release_dropped`` release the slot."""
        self._dropped.add(slot)

    def release_dropped(self) -> None:
        """Release the slots that were dropped."""
        self._release(self._dropped & self._slots)
        self._dropped.clear()

    def release_spare(self, *, used: Collection[Slot]) -> None:
        """Release the slots that no connection has, also those that may have been taken although it raised."""
        self._release(self._slots.difference(used))
        release_doubtful(self._noted)

    def release_all(self) -> None:
        """Release what this worker holds, or may hold; the network is closed."""
        self._release(self._slots | self._noted)

    def _release(self, slots: Iterable[Slot]) -> None:
        released = list(slots)
        if released:
            release_slots(released)
            self._slots.difference_update(released)
            self._noted.difference_update(released)
