"""What must be true after every schedule, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prx_email_django.conf import outbox_settings
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage, PauseRecord
from prx_email_django.states import TRANSITIONS
from tests.simulation import ahead_rules, audit, people_rules, redirect_rules, time_rules, token_rules
from tests.simulation.findings import PEOPLE, Findings
from tests.simulation.host import redirects
from tests.simulation.schedule import Schedule
from tests.simulation.server import CROWDED, SUSPENDED, THROTTLED
from tests.simulation.world import BEGIN

_MOVES = {(str(before), str(after)) for verb in TRANSITIONS.values() for before, after in verb.moves}
#: Nothing imports history here.
_ENTRIES = {str(verb.entry) for name, verb in TRANSITIONS.items() if verb.entry and name != "import"}
#: Seconds within which a worker notices that a row was taken from it: until its next renewal; and if it stood still,
#: the machine slept included (90 s at most): what was written before the sleep reaches the server after it.
NOTICED_WITHIN, NOTICED_LATE = 5.5, 60.0 + 90.0


def check(schedule: Schedule) -> list[str]:
    """Everything that is wrong, in words."""
    rows = {row.pk: row for row in OutboxMessage.objects.order_by("pk")}
    attempts: dict[int, list[DeliveryAttempt]] = {pk: [] for pk in rows}
    for attempt in DeliveryAttempt.objects.order_by("message_id", "number"):
        attempts[attempt.message_id].append(attempt)
    found = Findings(schedule, rows, attempts)
    return [text for rule in RULES for text in rule(found)]


def nothing_stuck(found: Findings) -> Iterator[str]:
    """Nothing is being sent, and only processes that were ended still hold a slot, until its lease ends."""
    for row in found.rows.values():
        if row.status == "sending":
            yield f"message {row.pk} is stuck in sending"
    world = found.schedule.world
    # A process may end while the database is away, by a signal or by itself: it takes what it could not write with it.
    ended = {
        f"{actor.name}:{actor.number}"
        for actor in world.processes
        if actor.killed or actor.was_interrupted or actor.is_left_unwritten()
    }
    for slot in ConnectionSlot.objects.filter(token__isnull=False, expires_at__gt=world.wall()):
        if slot.holder not in ended or (slot.expires_at - world.wall()).total_seconds() > 60:
            yield f"slot {slot.number} of account {slot.account_id} is held by {slot.holder} until {slot.expires_at}"


def what_was_queued_is_there(found: Findings) -> Iterator[str]:
    """Every message that a call returned is in the table, none that it refused, and those of one key are one."""
    for pk in sorted(found.known.queued - found.rows.keys() - found.deleted.keys()):
        yield f"message {pk} was queued, and is not there"
    for pk, row in found.rows.items():
        if row.envelope_from in found.known.refused_senders:
            yield f"message {pk} is there although it was refused"
    keys = Counter((row.account_id, row.idempotency_key) for row in found.rows.values() if row.idempotency_key)
    for (_, key), count in keys.items():
        if count > 1:
            yield f"{count} messages have the key {key}"


def nothing_lost(found: Findings) -> Iterator[str]:
    """A message is sent, and then it arrived, or it is at rest for a reason that the story gave."""
    for pk, row in found.rows.items():
        arrived = {address for copy in found.copies[pk] for address in copy.recipients}
        if row.status == "sent":
            for recipient in found.recipients[pk]:
                if recipient.result in ("", "accepted") and recipient.address not in arrived:
                    if pk not in found.known.confirmed:
                        yield f"message {pk} is sent, and {recipient.address} never got it"
                elif recipient.result == "unknown":
                    yield f"message {pk} is sent, and {recipient.address} is unknown"
        elif not _has_reason(found, pk, row):
            yield f"message {pk} rests without a reason: {row.last_error_code} {row.last_error}"


def _has_reason(found: Findings, pk: int, row: OutboxMessage) -> bool:
    refused = set[str]().union(*(server.refused for server in found.schedule.servers.values()))
    unknown = row.attempts - row.retries
    match row.last_error_code:
        case "cancelled":
            return pk in found.known.cancelled
        case "adopted":
            return bool(found.known.adoptions)
        case "expired":
            # Where the database broke off, the caller was not told its key.
            may_be_given_up = bool(found.schedule.kinds & {"patience", "quotas"})  # after days of waiting
            return may_be_given_up or pk in found.known.with_expiry or row.expires_at is not None
        case "unknown_outcome" | "lost_claim":
            return row.on_unknown == "hold" or unknown >= 6
        case _:
            addresses = {recipient.address for recipient in found.recipients[pk]} | {row.envelope_from, *redirects()}
            return bool(addresses & refused)


def no_copy_without_doubt(found: Findings) -> Iterator[str]:
    """Nobody gets more copies than one and the outcomes that nobody knew; all copies bear one Message-ID."""
    for copy in found.strangers:
        if copy.message in found.deleted:
            continue
        yield f"the server accepted what is no message: {copy}"
    # A late result takes the row of the lost attempt: the recovery itself allowed a second copy.
    recovered = Counter(change.message for change in found.changes if change.is_recovery)
    for pk, copies in found.copies.items():
        by = Counter(str(attempt.outcome) for attempt in found.attempts[pk])
        doubts = by["unknown"] + max(by["lost"], recovered[pk])
        got = Counter(address for copy in copies for address in copy.recipients)
        by_hand = found.known.by_hand.get(pk, [])
        noticed = NOTICED_WITHIN if found.is_prompt else NOTICED_LATE
        for address, count in got.items():
            allowed = 1 + doubts
            # A person who writes over a row that is being sent may cause a copy, until its worker has noticed it.
            for at in by_hand:
                allowed += any(copy.mail_at <= at + noticed and found.is_of_claim_before(copy, at) for copy in copies)
            if count > allowed:
                yield f"{address} got {count} copies of message {pk}, and {doubts} outcomes were unknown"
        names = {copy.message_id for copy in copies}
        if len(names) > 1 and not by_hand:
            yield f"the copies of message {pk} have several Message-IDs: {sorted(names)}"


def the_living_forget_nothing(found: Findings) -> Iterator[str]:
    """What a living worker was told is in the table: it is not sent again as a doubt."""
    # What has reached a process that gets a signal may not have been read yet: its lease ends it.  A process that came
    # to its end while the database was away took with it what it could not write.
    living = {
        actor.name
        for actor in found.schedule.world.processes
        if not (actor.killed or actor.was_interrupted or actor.is_left_unwritten())
    }
    for pk, copies in found.copies.items():
        outcomes = {
            str(attempt.claim_token.hex): str(attempt.outcome) for attempt in found.attempts[pk] if attempt.claim_token
        }
        for copy in copies:
            if not copy.answered or copy.client not in living:
                continue
            claims = found.claims_of(copy)
            if pk not in found.known.by_hand:  # else it may have been claimed anew while it was on its way
                claims = claims[:1]
            known = [outcomes[claim.new_token] for claim in claims if claim.new_token in outcomes]
            outcome = next(iter(known), "absent" if claims else "not claimed")
            if outcome not in ("sent", "failed"):  # failed: accepted for some recipients
                yield f"{copy.client} was told that message {pk} is accepted, and its attempt is {outcome}"


def counters_are_right(found: Findings) -> Iterator[str]:
    """``retries``, ``attempts``, ``message_number`` and the numbers of the attempts fit each other."""
    for pk, row in found.rows.items():
        attempts = found.attempts[pk]
        by = Counter(str(attempt.outcome) for attempt in attempts)
        numbers = [attempt.number for attempt in attempts]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"message {pk} has the attempts {numbers}"
        tokens = [attempt.claim_token for attempt in attempts if attempt.claim_token is not None]
        if len(set(tokens)) < len(tokens):
            yield f"message {pk} has two attempts of one claim"
        if row.retries > row.attempts:
            yield f"message {pk} has more retries ({row.retries}) than attempts ({row.attempts})"
        unsure = by["unknown"] + by["lost"] + by["sent"]
        # A late failure takes the row of the lost attempt that had fixed the number.
        may_be_fixed = bool(unsure or row.provider_message_id) or pk in found.late
        is_right = may_be_fixed if row.message_number is not None else not unsure
        if not is_right and pk not in found.known.confirmed:
            yield f"message {pk} has message_number {row.message_number} after {dict(by)}"
        if pk in found.known.by_hand:
            continue  # a late result of the claim that the person ended adds an attempt's row, and not always a count
        doubts = by["unknown"] + by["lost"]
        if not _are_counted(found, row, failed=by["failed"], doubts=doubts):
            yield f"message {pk} has attempts {row.attempts}, retries {row.retries}, after {dict(by)}"


def _are_counted(found: Findings, row: OutboxMessage, *, failed: int, doubts: int) -> bool:
    if row.pk in found.late:
        return row.attempts - row.retries >= doubts or row.pk in found.known.confirmed
    if row.pk in found.known.confirmed:
        # The person has said how the doubtful attempts ended: where something is missing, they are known failures.
        return failed <= row.retries and row.attempts == failed + doubts
    if row.account_id in found.refusing:
        failed = min(failed, row.retries)
    return (row.retries, row.attempts) == (failed, failed + doubts)


def only_transitions(found: Findings) -> Iterator[str]:
    """Every committed change is one of the table, and only the claim's owner ends it before its lease does."""
    owners: dict[tuple[int, str], str] = {}
    leases: dict[int, float] = {}
    for change in found.changes:
        move = (change.old_status, change.new_status)
        by_person = change.actor == "hand"
        if not change.old_status:
            if change.new_status not in _ENTRIES:
                yield f"{change} by {change.actor}: no message begins so"
        elif move not in _MOVES and not (change.is_renewal or change.is_deletion or by_person):
            yield f"{change} by {change.actor} at {change.at - 1000:.3f}: no such transition"
        if change.new_status == "sending":
            owners.setdefault((change.message, change.new_token), change.actor)
        if change.old_status == "sending" and not (change.is_renewal or change.is_deletion or by_person):
            owner = owners.get((change.message, change.old_token), "nobody")
            left = leases.get(change.message, 0.0) - change.at
            if owner != change.actor and left > 0.001 and change.code != "adopted":
                yield f"{change} by {change.actor} {left:.3f} s before the lease of {owner} ends"
        leases[change.message] = change.lease_ends


def mail_is_written_under_a_lease(found: Findings) -> Iterator[str]:
    """A third of the claim's lease remains when MAIL is written."""
    least = outbox_settings().lease.total_seconds() / 3
    messages: dict[str, list[int]] = {}  # a message that was sent once more has the sender of the first
    claims: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for change in found.changes:
        if not change.old_status:
            messages.setdefault(change.sender, []).append(change.message)
        if change.new_status == "sending":
            claims.setdefault((change.message, change.actor), []).append((change.at, change.lease_ends))
    for server in found.schedule.servers.values():
        for at, client, sender in server.mails:
            ids = messages.get(sender, [])
            ends = [
                max(ends)
                for pk in ids
                if (ends := [ends for since, ends in claims.get((pk, client), []) if since <= at][-1:])
            ]
            if found.known.by_hand.keys().isdisjoint(ids) and max(ends, default=0.0) - at < least - 0.01:
                left = max(ends) - at if ends else 0.0
                yield f"{client} wrote MAIL of message {ids} {left:.3f} s before its lease ended"


def reports_are_right(found: Findings) -> Iterator[str]:
    """Where nothing broke a drain, the reports together say what the rows say."""
    known = found.known
    troubled = (
        known.broken_drains
        or known.adoptions
        or found.deleted
        or known.erased  # a message that waited only for them is sent
        or found.refusing  # what an earlier drain counted as failed is deferred by a later one
        or found.late
        or known.by_hand
        or any(a.killed or a.was_interrupted for a in found.schedule.world.processes)
    )
    total: Counter[str] = Counter()
    for report in known.reports:
        for name in ("claimed", "sent", "deferred", "failed", "recovered", "released", "expired"):
            total[name] += getattr(report, name)
    if troubled or total["recovered"]:
        return
    ends = total["sent"] + total["deferred"] + total["failed"] + total["released"] + total["expired"]
    if not known.singles and total["claimed"] != ends + known.progress:
        yield f"{total['claimed']} were claimed, and {dict(total)} with {known.progress} in progress came of it"
    sent = sum(row.status == "sent" for row in found.rows.values())
    if not known.singles and not known.confirmed and sent != total["sent"]:
        yield f"{sent} messages are sent, and the reports say {total['sent']}"


def results_are_right(found: Findings) -> Iterator[str]:
    """``send`` said ``sent`` only of what is sent."""
    for result in found.known.results:
        if result.outbox_id not in found.rows:
            continue  # deleted
        if result.status == "sent" and found.rows[result.outbox_id].status != "sent":
            yield f"send said sent of message {result.outbox_id}, which is {found.rows[result.outbox_id].status}"


def a_kill_copies_few(found: Findings) -> Iterator[str]:
    """A killed worker leaves at most (4 + messages in flight) × connections accepted messages without a result."""
    if not found.is_prompt or found.known.adoptions or found.known.changed:
        return  # a claim that was lost by standing still is in doubt too, and what was adopted
    kills = Counter(actor.name for actor in found.schedule.world.processes if actor.killed)
    for account, server in zip(found.schedule.accounts, found.schedule.servers.values(), strict=False):
        bound = (4 + account.max_in_flight) * account.max_connections
        doubts: Counter[str] = Counter()
        for copy in server.copies:
            claim = found.claim_of(copy)
            tokens = {
                attempt.claim_token for attempt in found.attempts.get(copy.message, []) if attempt.outcome == "lost"
            }
            if claim is not None and claim.new_token in {token.hex for token in tokens if token}:
                doubts[copy.client] += 1
        for client, count in doubts.items():
            if count > bound * max(1, kills[client]):
                yield f"{client} left {count} messages of {account.name} in doubt, and may leave {bound}"


#: Messages, and seconds.
_MESSAGES_WITHIN = {
    "4/minute": [(4, 60.0)],
    "3/second": [(3, 1.0)],
    "2/second, 5/minute": [(2, 1.0), (5, 60.0)],
    "3/hour": [(3, 3600.0)],
    "2/hour, 4/day": [(2, 3600.0), (4, 86_400.0)],
}
_RECIPIENTS_WITHIN = {
    "6 recipients/minute": (6, 60.0),
    "5 recipients/hour": (5, 3600.0),
    "8 recipients/day": (8, 86_400.0),
}


def limits_are_kept(found: Findings) -> Iterator[str]:
    """No span has more MAILs than the account's limit, and no instant more connections."""
    # A worker that sleeps through its slot's lease still has its connection when another takes the slot.
    for account, server in zip(found.schedule.accounts, found.schedule.servers.values(), strict=False):
        if account.pk in found.known.changed:
            continue
        if found.is_prompt and server.most_live > account.max_connections:
            yield f"{account.name} had {server.most_live} connections, and may have {account.max_connections}"
        mails = sorted(at for at, _, _ in server.mails)
        for count, seconds in _MESSAGES_WITHIN.get(account.rate_limits, ()):
            for first, last in zip(mails, mails[count:], strict=False):
                if last - first < seconds - 0.01:
                    yield f"{count + 1} MAILs of {account.name} within {last - first:.3f} s"
        most, seconds = _RECIPIENTS_WITHIN.get(account.rate_limits, (0, 0.0))
        if most:
            each = sorted((at, count) for (at, _, _), count in zip(server.mails, server.rcpts, strict=True))
            for at, _ in each:
                total = sum(count for other, count in each if at <= other < at + seconds - 0.01)
                if total > most:
                    yield f"{total} recipients of {account.name} within {seconds:g} s from {at - 1000:.3f} on"


def accepted_are_never_addressed_again(found: Findings) -> Iterator[str]:
    """Whoever is known to have a message is in no envelope of a claim that was taken later."""
    accepted = audit.accepted()
    for pk, copies in found.copies.items():
        for copy in copies:
            claim = found.claim_of(copy)
            for address in copy.recipients:
                at = accepted.get((pk, address))
                if claim is not None and at is not None and claim.at > at and pk not in found.known.by_hand:
                    yield f"{address} was known to have message {pk} when {copy.client} claimed it and sent it again"


def older_success_ends_no_newer_pause(found: Findings) -> Iterator[str]:
    """A worker's pause is ended by a transaction whose MAIL was written after it began, or by a person."""
    for account, paused_at, at, actor in audit.ended_pauses():
        if actor in (*PEOPLE, "director"):
            continue
        if not any(
            client == actor and paused_at - 0.001 <= mail <= at for mail, client, _ in found.servers[account].mails
        ):
            yield f"{actor} ended the pause of account {account} of {paused_at - 1000:.3f} without a newer transaction"


def nothing_is_claimed_while_stopped(found: Findings) -> Iterator[str]:
    """From a second after a person's pause, or the end of an account, nothing is claimed for it, but by that person."""
    if not found.is_prompt or "conflicts" in found.schedule.kinds:
        return
    for change in found.changes:
        if not change.is_claim or change.actor in (*PEOPLE, "director"):
            continue
        row = found.rows.get(change.message)
        for stop in found.known.stops:
            is_within = stop.begins + 1.5 < change.at < stop.ends
            if is_within and row is not None and stop.account in (None, change.account):
                yield f"{change} by {change.actor} at {change.at - 1000:.3f}: stopped since {stop.begins - 1000:.3f}"


def nothing_goes_before_its_time(found: Findings) -> Iterator[str]:
    """No claim of a message comes before the ``send_at`` that its caller gave, unless a person asked for it."""
    for change in found.changes:
        earliest = found.known.not_before.get(change.message, 0.0)
        is_claim = change.is_claim
        asked = change.message in found.known.asked or change.message in found.known.by_hand
        if is_claim and change.at < earliest - 0.001 and not asked:
            yield f"{change} by {change.actor} {earliest - change.at:.3f} s before its time"


def copies_are_alike(found: Findings) -> Iterator[str]:
    """Every copy has its text, and all have one Date until a person asks for another attempt."""
    for pk, copies in found.copies.items():
        yield from (f"a copy of message {pk} has no text: {copy}" for copy in copies if not copy.is_whole)
        dates = {copy.date for copy in copies}
        if len(dates) > 1 and pk not in found.known.asked:
            yield f"the copies of message {pk} have several dates: {sorted(dates)}"


def throttling_burns_no_retry(found: Findings) -> Iterator[str]:
    """A reply that only slows the account down is no failure of its message."""
    for pk, attempts in found.attempts.items():
        for attempt in attempts:
            if attempt.error in (THROTTLED, CROWDED):
                yield f"message {pk} paid for {attempt.error}"


def adopted_rest(found: Findings) -> Iterator[str]:
    """What an adoption found is claimed only if a person asks for it."""
    for done_at, newest in found.known.adoptions:
        for change in found.changes:
            is_claim = change.is_claim
            asked = change.message in found.known.asked or change.message in found.known.by_hand
            if is_claim and change.message <= newest and change.at > done_at and not asked:
                yield f"{change} by {change.actor} at {change.at - 1000:.3f}, after its adoption"


def erased_get_nothing(found: Findings) -> Iterator[str]:
    """Nobody who was erased is in the envelope of a later claim, but of messages that were left or are newer."""
    begun = {change.message: change.at for change in found.changes if not change.old_status}
    for server in found.schedule.servers.values():
        for copy in server.copies:
            claim = found.claim_of(copy)
            for address in copy.recipients:
                at = found.known.erased.get(address)
                is_left = at is None or copy.message in found.known.left or begun[copy.message] > at
                if not is_left and claim is not None and claim.at > at:
                    yield f"{address} was erased at {at - 1000:.3f}, and got {copy}"


def suspended_is_no_trouble_of_messages(found: Findings) -> Iterator[str]:
    """After the account was paused as refusing, no message of that row of refusals rests because of it."""
    if not found.is_prompt or found.schedule.kinds & {"network", "people", "operators", "kills", "signals"}:
        return
    for pause in PauseRecord.objects.filter(code="refusing"):
        begun = (pause.begun_at - BEGIN).total_seconds() + 1000.0
        accepted = max((copy.at for copy in found.servers[pause.account_id].copies if copy.at < begun), default=0.0)
        for pk, row in found.rows.items():
            tries = found.attempts[pk]
            if row.account_id != pause.account_id or row.status != "failed" or row.last_error != SUSPENDED or not tries:
                continue
            started = (tries[-1].started_at - BEGIN).total_seconds() + 1000.0
            if accepted + 1.0 < started < begun:
                yield f"message {pk} rests because of a row of refusals: {row.last_error}"


RULES: tuple[Callable[[Findings], Iterator[str]], ...] = (
    nothing_stuck,
    what_was_queued_is_there,
    nothing_lost,
    no_copy_without_doubt,
    the_living_forget_nothing,
    counters_are_right,
    only_transitions,
    mail_is_written_under_a_lease,
    reports_are_right,
    results_are_right,
    a_kill_copies_few,
    limits_are_kept,
    accepted_are_never_addressed_again,
    older_success_ends_no_newer_pause,
    nothing_is_claimed_while_stopped,
    nothing_goes_before_its_time,
    copies_are_alike,
    throttling_burns_no_retry,
    adopted_rest,
    erased_get_nothing,
    suspended_is_no_trouble_of_messages,
    *people_rules.RULES,
    *ahead_rules.RULES,
    *time_rules.RULES,
    *token_rules.RULES,
    *redirect_rules.RULES,
)
