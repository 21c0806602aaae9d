"""Rules of the app that can be broken on purpose: the simulation must find each of them.

A broken rule replaces one function of the app in the simulation's own process; ``--broken NAME`` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prx_email_django.api import operations, queueing
from prx_email_django.compose import message
from prx_email_django.limits import pauses, rate_windows, refusals, slots
from prx_email_django.models import OutboxMessage
from prx_email_django.rules import policy
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store import (
    adopt,
    claimed,
    db,
    erase,
    finalize,
    insert,
    insert_statement,
    late_results,
    lease,
    recover,
)
from prx_email_django.transports.smtp import reply_rules, session
from prx_email_django.worker import current, held_slots, permits, prefetch, recorder, single, suspicion, trouble
from tests.simulation import (
    ahead_mutations,
    begun_mutations,
    people_mutations,
    redirect_mutations,
    time_mutations,
    token_mutations,
)
from tests.simulation.breaking import put, replace_everywhere
from tests.simulation.world import World


def break_rule(name: str) -> None:
    """Break a rule by its name."""
    MUTATIONS[name][0]()


def a_lost_reply_is_a_known_failure() -> None:
    """The connection was lost after the body: the message is tried again as if the server had not taken it."""
    judge = session.judge_loss

    def known(*args: Any, **options: Any) -> Any:
        verdict = judge(*args, **options)
        return replace(verdict, ending=Ending.TEMPORARY) if verdict.ending is Ending.UNKNOWN else verdict

    replace_everywhere(judge, known, session)


def claims_never_end() -> None:
    """A worker writes MAIL and bodies however old its claim is."""
    put(lease.Lease, "has_time_left", lambda self, now=None: True)
    put(slots.Slot, "has_time_left", lambda self, now=None: True)


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

    replace_everywhere(found, lambda *, clock: found(clock=Early(clock)), recorder)


def late_acceptances_are_forgotten() -> None:
    """A result that comes back after its claim was lost is thrown away."""
    late = finalize.record_late

    def forget(finished: Any, *, clock: Any) -> Any:
        return late_results.recorded(finished, policy.Status.FAILED, late=True)

    replace_everywhere(late, forget, finalize)


def slots_are_kept() -> None:
    """A worker does not give its slots back."""
    replace_everywhere(slots.release_slots, lambda given: None, held_slots, single)


def one_permit_too_many() -> None:
    """A rate limit lets one message more go."""
    rolled = rate_windows.rolled

    def fewer(newest: int, counts: Iterable[int], bucket: int, **options: int) -> Any:
        number, found = rolled(newest, list(counts), bucket, **options)
        spent = next((index for index, count in enumerate(found) if count), None)
        return (number, found) if spent is None else (number, [*found[:spent], found[spent] - 1, *found[spent + 1 :]])

    replace_everywhere(rolled, fewer, rate_windows)


def temporary_failures_rest() -> None:
    """A message that should be tried again comes to rest."""
    failed = policy._failed
    replace_everywhere(failed, lambda *args, **options: replace(failed(*args, **options), next_attempt_at=None), policy)


def unknown_outcomes_are_not_counted() -> None:
    """``attempts`` stays as it was after an unknown outcome."""
    unknown = policy._unknown

    def same(outcome: Any, counters: Any, **options: Any) -> Any:
        return replace(unknown(outcome, counters, **options), attempts=counters.attempts)

    replace_everywhere(unknown, same, policy)


def holding_connects_for_ever() -> None:
    """A message with ``hold`` that waits for a permit opens one connection after another."""

    def wanted(self: prefetch.ClaimPrefetch, *, open_now: int, most: int) -> int:
        return most - open_now if self.stopped_at_hold else max(0, min(len(self.claims), most) - open_now)

    put(prefetch.ClaimPrefetch, "wanted_connections", wanted)


def releases_are_not_counted() -> None:
    """The report of a drain leaves out what it gave back."""
    give_back = recorder.Recorder.release

    def uncounted(self: recorder.Recorder, messages: Any) -> None:
        counted = self.counts["released"]
        give_back(self, messages)
        self.counts["released"] = counted

    put(recorder.Recorder, "release", uncounted)


def queued_messages_vanish() -> None:
    """The message that a call returned is not in the table."""
    write = insert_statement.insert_together

    def lose(*args: Any, **options: Any) -> Any:
        done = write(*args, **options)
        OutboxMessage.objects.filter(pk__in=[written.pk for written in done.messages if written]).delete()
        return done

    replace_everywhere(write, lose, queueing)


def refused_messages_stay() -> None:
    """A message that is refused since it has expired stands in the table all the same."""
    write, check = insert.insert, message.check_not_expired

    def refuse(draft: Any, *, clock: Any) -> Any:
        written = write(draft, clock=clock)
        check(written[0].expires_at, clock.now, is_queued=lambda: False)
        return written

    replace_everywhere(check, lambda *args, **options: None, message)
    replace_everywhere(write, refuse, queueing)


def accepted_are_addressed_again() -> None:
    """Every recipient of a claimed message is in its envelope, whoever has it already."""
    replace_everywhere(claimed.is_open, lambda result: result != "refused", claimed)


def any_success_ends_a_pause() -> None:
    """A transaction that was begun before a pause ends it."""

    def end_by(self: trouble.Troubles, message: Any) -> bool:
        pauses.note_success(self.current.account, begun_at=datetime(2100, 1, 1, tzinfo=UTC))
        self.current.look_again()
        self.are_known = False
        return True

    put(trouble.Troubles, "end_by", end_by)


def pauses_are_not_heeded() -> None:
    """A drain sends over an account that a person has paused or switched off."""
    put(current.CurrentAccount, "may_send", lambda self, now: True)


def messages_go_before_their_time() -> None:
    """What is queued for later is due at once."""
    write = insert_statement.insert_together

    def at_once(connection: Any, drafts: Iterable[Any], *, now: Any) -> Any:
        return write(connection, [replace(draft, due_at=None) for draft in drafts], now=now)

    replace_everywhere(write, at_once, queueing)


def sensitive_texts_go_too_early() -> None:
    """The text of a sensitive message is removed after its first attempt, whatever came of it."""
    _after_result(lambda message, clock: {"body_text": ""} if message.is_sensitive else {})


def attempts_have_their_dates() -> None:
    """The Date of a message is that of its attempt."""
    _after_result(lambda message, clock: {"due_since": clock.now})


def _after_result(fields: Callable[[Any, Any], dict[str, Any]]) -> None:
    record = finalize._record_one

    def recorded(finished: Any, *, clock: Any, tries: list[bool]) -> Any:
        done = record(finished, clock=clock, tries=tries)
        if values := fields(finished.claim.message, clock):
            OutboxMessage.objects.filter(pk=finished.claim.id).update(**values)
        return done

    replace_everywhere(record, recorded, finalize)


def throttling_is_a_failure() -> None:
    """A message pays for it that the server finds its account too fast."""
    judge = reply_rules._judge_account

    def known(*args: Any, **options: Any) -> Any:
        verdict = judge(*args, **options)
        return replace(verdict, ending=Ending.TEMPORARY) if verdict and verdict.trouble.is_throttle else verdict

    replace_everywhere(judge, known, reply_rules)


def adoptions_leave_what_is_sent() -> None:
    """An adoption puts at rest what waits, and leaves what is being sent."""

    def adopted(instance: str, *, clock: Any) -> int:
        return adopt._rest_waiting(10**9, clock=clock)

    replace_everywhere(adopt.adopt, adopted, operations)


def erased_stay_recipients() -> None:
    """Who is erased still gets what waits for others too."""
    replace_everywhere(erase._withdraw, lambda message, *args, **options: policy.Status(message.status), erase)


def recipients_are_not_limited() -> None:
    """A limit of recipients is not kept."""

    def unlimited(account: Any, counts: Any, **options: Any) -> Any:
        return rate_windows.Permits(account.pk, sum(counts), "recipients", {}), len(counts)

    replace_everywhere(rate_windows.take_recipients, unlimited, permits)


def suspended_messages_rest() -> None:
    """What a suspended account's server refused stays at rest."""
    replace_everywhere(refusals.reinstate_refused, lambda *args, **options: [], suspicion)


def machines_clocks_count() -> None:
    """A worker judges by its own machine's clock."""
    put(db, "database_now", lambda: World.current.local())


#: Each with the kinds of trouble and the seed that brought it to light, and with words of what shows it.  Where a
#: change of the app has other things happen in that schedule, those after it are played too.
MUTATIONS: dict[str, tuple[Callable[[], None], str, str, str]] = {
    function.__name__: (function, kinds, words, *(seed or ["680000"]))
    for function, kinds, words, *seed in (
        (a_lost_reply_is_a_known_failure, "network", "copies of message", "680087"),
        (accepted_are_addressed_again, "network", "was known to have message", "680034"),
        (adoptions_leave_what_is_sent, "operators", "after its adoption", "680243"),
        (any_success_ends_a_pause, "network", "without a newer transaction", "680146"),
        (attempts_have_their_dates, "network", "several dates", "680009"),
        (claims_never_end, "freezes", "before its lease ended", "731803"),
        (erased_stay_recipients, "operators,network", "was erased at", "680020"),
        (holding_connects_for_ever, "people", "runs in circles", "700051"),
        (late_acceptances_are_forgotten, "freezes", "was told that message", "680092"),
        (machines_clocks_count, "clocks,network", "before the lease of", "690161"),
        (messages_go_before_their_time, "people", "before its time", "680006"),
        (one_permit_too_many, "people", "MAILs of", "690005"),
        (pauses_are_not_heeded, "people", "stopped since", "681147"),
        (queued_messages_vanish, "conflicts", "was queued, and is not there"),
        (recipients_are_not_limited, "conflicts", "recipients of", "680008"),
        (recovered_while_it_is_sent, "network,freezes", "before the lease of"),
        (refused_messages_stay, "people", "although it was refused", "680071"),
        (releases_are_not_counted, "network", "were claimed, and", "680014"),
        (sensitive_texts_go_too_early, "network", "has no text", "680069"),
        (slots_are_kept, "network", "is held by"),
        (suspended_messages_rest, "refusing", "a row of refusals", "690008"),
        (temporary_failures_rest, "network", "rests without a reason", "680014"),
        (throttling_is_a_failure, "network", "paid for", "680070"),
        (unknown_outcomes_are_not_counted, "network", "has attempts", "680020"),
        *begun_mutations.MUTATIONS,
        *people_mutations.MUTATIONS,
        *ahead_mutations.MUTATIONS,
        *time_mutations.MUTATIONS,
        *token_mutations.MUTATIONS,
        *redirect_mutations.MUTATIONS,
    )
}
