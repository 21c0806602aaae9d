"""What the database saw: every change of a message's state that was committed, with who made it and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection

from tests.simulation.world import BEGIN

_TABLE, _RECIPIENTS = "prx_email_django_outboxmessage", "prx_email_django_recipient"
_STATES = "prx_email_django_accountstate"
#: Columns of a change, and what each is of the message's row; ``OLD`` where it was deleted.
_COLUMNS = """message, at, actor, old_status, new_status, old_token, new_token, old_lease, new_lease, due, code,
    attempts, retries, account, sender, since, expires"""


def _noted(row: str, old: str, new: str) -> str:
    """The statement of a trigger that notes a change; ``old``, ``new``: status, token and lease before and after."""
    (old_status, old_token, old_lease), (new_status, new_token, new_lease) = old.split("|"), new.split("|")
    return f"""BEGIN INSERT INTO simulated_changes ({_COLUMNS}) VALUES ({row}.id, simulated_now(), simulated_actor(),
      {old_status}, {new_status}, {old_token}, {new_token}, {old_lease}, {new_lease}, {row}.next_attempt_at,
      {row}.last_error_code, {row}.attempts, {row}.retries, {row}.account_id, {row}.envelope_from, {row}.due_since,
      {row}.expires_at); END"""


_NOTHING, _GONE = "''|''|NULL", "'deleted'|NULL|NULL"
_OLD, _NEW = "OLD.status|OLD.claim_token|OLD.claim_expires_at", "NEW.status|NEW.claim_token|NEW.claim_expires_at"
_SET_UP = (
    """CREATE TABLE simulated_changes (number INTEGER PRIMARY KEY, message INTEGER, at REAL, actor TEXT,
    old_status TEXT, new_status TEXT, old_token TEXT, new_token TEXT, old_lease TEXT, new_lease TEXT,
    due TEXT, code TEXT, attempts INTEGER, retries INTEGER, account INTEGER, sender TEXT, since TEXT, expires TEXT)""",
    f"""CREATE TRIGGER simulated_update AFTER UPDATE ON {_TABLE}
    WHEN OLD.status IS NOT NEW.status OR (OLD.next_attempt_at IS NULL) IS NOT (NEW.next_attempt_at IS NULL)
      OR OLD.account_id <> NEW.account_id
      OR (NEW.status = 'sending' AND (OLD.claim_token IS NOT NEW.claim_token
        OR OLD.claim_expires_at IS NOT NEW.claim_expires_at)) {_noted("NEW", _OLD, _NEW)}""",
    f"CREATE TRIGGER simulated_insert AFTER INSERT ON {_TABLE} {_noted('NEW', _NOTHING, _NEW)}",
    f"CREATE TRIGGER simulated_delete AFTER DELETE ON {_TABLE} {_noted('OLD', _OLD, _GONE)}",
    "CREATE TABLE simulated_accepted (message INTEGER, address TEXT, at REAL)",
    f"""CREATE TRIGGER simulated_accepted AFTER UPDATE OF result ON {_RECIPIENTS}
    WHEN NEW.result = 'accepted' AND OLD.result <> 'accepted' BEGIN
    INSERT INTO simulated_accepted VALUES (NEW.message_id, NEW.address, simulated_now()); END""",
    "CREATE TABLE simulated_ends (account INTEGER, paused_at TEXT, at REAL, actor TEXT)",
    f"""CREATE TRIGGER simulated_ends AFTER UPDATE ON {_STATES}
    WHEN OLD.paused_by = 'worker' AND NEW.paused_by = '' BEGIN
    INSERT INTO simulated_ends VALUES (NEW.account_id, OLD.paused_at, simulated_now(), simulated_actor()); END""",
    "CREATE TABLE simulated_memories (account INTEGER, at REAL, until TEXT)",
    f"""CREATE TRIGGER simulated_memories AFTER UPDATE ON {_STATES}
    WHEN NEW.envelope_until IS NOT NULL AND OLD.envelope_until IS NOT NEW.envelope_until BEGIN
    INSERT INTO simulated_memories VALUES (NEW.account_id, simulated_now(), NEW.envelope_until); END""",
    "PRAGMA recursive_triggers = OFF",
)
#: Emptied before each schedule.
TABLES = ("simulated_changes", "simulated_accepted", "simulated_ends", "simulated_memories")


@dataclass(frozen=True)
class Change:
    """One committed change."""

    number: int
    message: int
    at: float
    actor: str
    old_status: str
    new_status: str
    old_token: str
    new_token: str
    #: UTC, as SQLite stores it.
    old_lease: str | None
    new_lease: str | None
    due: str | None
    code: str
    attempts: int
    retries: int
    account: int
    sender: str
    #: ``due_since`` and ``expires_at``, as SQLite stores them.
    since: str
    expires: str | None

    @property
    def lease_ends(self) -> float:
        """When the new lease ends, on the clock of uptime; 0: there is none."""
        return 0.0 if self.new_lease is None else uptime_of(self.new_lease)

    @property
    def is_renewal(self) -> bool:
        """Whether only the lease was changed."""
        return self.old_status == self.new_status == "sending" and self.old_token == self.new_token

    @property
    def is_claim(self) -> bool:
        """Whether somebody has claimed the message."""
        return self.new_status == "sending" and not self.is_renewal

    @property
    def is_deletion(self) -> bool:
        """Whether the row was deleted."""
        return self.new_status == "deleted"

    @property
    def rests(self) -> bool:
        """Whether the message is at rest from now on."""
        return self.new_status == "failed" and self.due is None

    @property
    def is_recovery(self) -> bool:
        """Whether the claim was taken for lost."""
        is_lost = self.code in ("lost_claim", "adopted")
        return self.old_status == "sending" and self.new_status == "failed" and is_lost

    def __str__(self) -> str:
        due = f" due {self.due[11:23]}" if self.due else " at rest" if self.new_status == "failed" else ""
        code = f" {self.code}" if self.code and self.new_status == "failed" else ""
        counts = f" (attempts {self.attempts}, retries {self.retries})" if self.attempts else ""
        lease = f" until {self.new_lease[11:23]} token {self.new_token[:6]}" if self.new_lease else ""
        return f"message {self.message}: {self.old_status or 'new'} -> {self.new_status}{lease}{due}{code}{counts}"


def set_up() -> None:
    """Make the table and the triggers."""
    with connection.cursor() as cursor:
        for statement in _SET_UP:
            cursor.execute(statement)


def changes() -> list[Change]:
    """Every change, in the order of the commits' statements."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM simulated_changes ORDER BY number")
        return [Change(*row) for row in cursor.fetchall()]


def uptime_of(instant: str) -> float:
    """An instant as SQLite stores it, on the clock of uptime."""
    return (datetime.fromisoformat(instant).replace(tzinfo=UTC) - BEGIN).total_seconds() + 1000.0


def accepted() -> dict[tuple[int, str], float]:
    """When each recipient of a message that was not sent yet was marked as accepted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT message, address, MIN(at) FROM simulated_accepted GROUP BY message, address")
        return {(message, address): at for message, address, at in cursor.fetchall()}


def ended_pauses() -> list[tuple[int, float, float, str]]:
    """Workers' pauses that were ended: account, when it was paused, when that was ended, and by whom."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT account, paused_at, at, actor FROM simulated_ends")
        return [(account, uptime_of(paused_at), at, actor) for account, paused_at, at, actor in cursor.fetchall()]


def envelopes_alone() -> list[tuple[int, float, float]]:
    """From when until when which account was known to write no envelope behind an unanswered body."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT account, at, until FROM simulated_memories")
        return [(account, at, uptime_of(until)) for account, at, until in cursor.fetchall()]
