"""Rules of the app that can be broken on purpose: the simulation must find each of them.

A broken rule replaces one function of the app in the simulation's own process; ``--broken NAME`` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from prx_email_django.api import queueing
from prx_email_django.compose import message
from prx_email_django.limits import rate_windows, slots
from prx_email_django.models import OutboxMessage
from prx_email_django.rules import policy
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store import finalize, insert, late_results, lease, recover
from prx_email_django.transports.smtp import session
from prx_email_django.worker import connections, prefetch, recorder, single

#: What takes the broken rule back.
_UNDO: list[Callable[[], None]] = []


def break_rule(name: str) -> None:
    """Break a rule by its name."""
    MUTATIONS[name][0]()


def mend() -> None:
    """Take back what was broken."""
    while _UNDO:
        _UNDO.pop()()


def _set(owner: Any, name: str, value: Any) -> None:
    _UNDO.append(partial(setattr, owner, name, vars(owner)[name]))
    setattr(owner, name, value)


def _replace(old: Callable[..., Any], new: Callable[..., Any], *modules: Any) -> None:
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is old:
                _set(module, name, new)


def a_lost_reply_is_a_known_failure() -> None:
    """The connection was lost after the body: the message is tried again as if the server had not taken it."""
    judge = session.judge_loss

    def known(*args: Any, **options: Any) -> Any:
        verdict = judge(*args, **options)
        return replace(verdict, ending=Ending.TEMPORARY) if verdict.ending is Ending.UNKNOWN else verdict

    _replace(judge, known, session)


def claims_never_end() -> None:
    """A worker writes MAIL and bodies however old its claim is."""
    _set(lease.Lease, "has_time_left", lambda self: True)
    _set(slots.Slot, "has_time_left", lambda self: True)


def recovered_while_it_is_sent() -> None:
    """A message is recovered ten seconds before its lease ends."""
    from datetime import timedelta

    from prx_email_django.rules.clock import Clock

    found = recover.recover

    class Early:
        def __init__(self, clock: Clock) -> None:
            self._clock = clock
            self.running = clock.running + timedelta(seconds=20)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._clock, name)

    _replace(found, lambda *, clock: found(clock=Early(clock)), recorder)


def late_acceptances_are_forgotten() -> None:
    """A result that comes back after its claim was lost is thrown away."""
    late = finalize.record_late

    def forget(finished: Any, *, clock: Any) -> Any:
        return late_results.recorded(finished, policy.Status.FAILED, late=True)

    _replace(late, forget, finalize)


def slots_are_kept() -> None:
    """A worker does not give its slots back."""
    _replace(slots.release_slots, lambda given: None, connections, single)


def one_permit_too_many() -> None:
    """A rate limit lets one message more go."""
    rolled = rate_windows.rolled

    def fewer(newest: int, counts: Iterable[int], bucket: int, **options: int) -> Any:
        number, found = rolled(newest, list(counts), bucket, **options)
        spent = next((index for index, count in enumerate(found) if count), None)
        return (number, found) if spent is None else (number, [*found[:spent], found[spent] - 1, *found[spent + 1 :]])

    _replace(rolled, fewer, rate_windows)


def temporary_failures_rest() -> None:
    """A message that should be tried again comes to rest."""
    failed = policy._failed
    _replace(failed, lambda *args, **options: replace(failed(*args, **options), next_attempt_at=None), policy)


def unknown_outcomes_are_not_counted() -> None:
    """``attempts`` stays as it was after an unknown outcome."""
    unknown = policy._unknown

    def same(outcome: Any, counters: Any, **options: Any) -> Any:
        return replace(unknown(outcome, counters, **options), attempts=counters.attempts)

    _replace(unknown, same, policy)


def holding_connects_for_ever() -> None:
    """A message with ``hold`` that waits for a permit opens one connection after another."""

    def wants(self: prefetch.ClaimPrefetch, open_now: int) -> bool:
        return len(self.claims) > open_now or self.stopped_at_hold

    _set(prefetch.ClaimPrefetch, "wants_connection", wants)


def releases_are_not_counted() -> None:
    """The report of a drain leaves out what it gave back."""
    give_back = recorder.Recorder.release

    def uncounted(self: recorder.Recorder, messages: Any) -> None:
        counted = self.counts["released"]
        give_back(self, messages)
        self.counts["released"] = counted

    _set(recorder.Recorder, "release", uncounted)


def queued_messages_vanish() -> None:
    """The message that a call returned is not in the table."""
    write = insert.insert

    def lose(*args: Any, **options: Any) -> Any:
        written, is_new = write(*args, **options)
        OutboxMessage.objects.filter(pk=written.pk).delete()
        return written, is_new

    _replace(write, lose, queueing)


def refused_messages_stay() -> None:
    """A message that is refused since it has expired stands in the table all the same."""
    write, check = insert.insert, message.check_not_expired

    def refuse(draft: Any, *, clock: Any) -> Any:
        written = write(draft, clock=clock)
        check(written[0].expires_at, clock.now, is_queued=lambda: False)
        return written

    _replace(check, lambda *args, **options: None, message)
    _replace(write, refuse, queueing)


#: Each with the kinds of trouble and the first seed that bring it to light soon.
MUTATIONS: dict[str, tuple[Callable[[], None], str, str]] = {
    function.__name__: (function, kinds, *(seed or ["680000"]))
    for function, kinds, *seed in (
        (a_lost_reply_is_a_known_failure, "network", "680015"),
        (claims_never_end, "freezes", "720205"),
        (holding_connects_for_ever, "people", "680015"),
        (late_acceptances_are_forgotten, "freezes"),
        (one_permit_too_many, "people", "680060"),
        (queued_messages_vanish, "conflicts"),
        (refused_messages_stay, "people"),
        (recovered_while_it_is_sent, "network,freezes"),
        (releases_are_not_counted, "network"),
        (slots_are_kept, "network"),
        (temporary_failures_rest, "network"),
        (unknown_outcomes_are_not_counted, "network"),
    )
}
