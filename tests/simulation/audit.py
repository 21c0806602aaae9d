"""What the database saw: every change of a message's state that was committed, with who made it and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection

from tests.simulation.world import BEGIN

_TABLE, _RECIPIENTS = "prx_email_django_outboxmessage", "prx_email_django_recipient"
_STATES = "prx_email_django_accountstate"
_SET_UP = (
    """CREATE TABLE simulated_changes (number INTEGER PRIMARY KEY, message INTEGER, at REAL, actor TEXT,
    old_status TEXT, new_status TEXT, old_token TEXT, new_token TEXT, old_lease TEXT, new_lease TEXT,
    due TEXT, code TEXT, attempts INTEGER, retries INTEGER)""",
    f"""CREATE TRIGGER simulated_update AFTER UPDATE ON {_TABLE}
    WHEN OLD.status IS NOT NEW.status OR (OLD.next_attempt_at IS NULL) IS NOT (NEW.next_attempt_at IS NULL)
      OR (NEW.status = 'sending' AND (OLD.claim_token IS NOT NEW.claim_token
        OR OLD.claim_expires_at IS NOT NEW.claim_expires_at)) BEGIN
    INSERT INTO simulated_changes (message, at, actor, old_status, new_status, old_token, new_token, old_lease,
      new_lease, due, code, attempts, retries)
    VALUES (NEW.id, simulated_now(), simulated_actor(), OLD.status, NEW.status, OLD.claim_token, NEW.claim_token,
      OLD.claim_expires_at, NEW.claim_expires_at, NEW.next_attempt_at, NEW.last_error_code, NEW.attempts, NEW.retries);
    END""",
    f"""CREATE TRIGGER simulated_insert AFTER INSERT ON {_TABLE} BEGIN
    INSERT INTO simulated_changes (message, at, actor, old_status, new_status, old_token, new_token, old_lease,
      new_lease, due, code, attempts, retries)
    VALUES (NEW.id, simulated_now(), simulated_actor(), '', NEW.status, '', NEW.claim_token, NULL,
      NEW.claim_expires_at, NEW.next_attempt_at, NEW.last_error_code, NEW.attempts, NEW.retries);
    END""",
    "CREATE TABLE simulated_accepted (message INTEGER, address TEXT, at REAL)",
    f"""CREATE TRIGGER simulated_accepted AFTER UPDATE OF result ON {_RECIPIENTS}
    WHEN NEW.result = 'accepted' AND OLD.result <> 'accepted' BEGIN
    INSERT INTO simulated_accepted VALUES (NEW.message_id, NEW.address, simulated_now()); END""",
    "CREATE TABLE simulated_ends (account INTEGER, paused_at TEXT, at REAL, actor TEXT)",
    f"""CREATE TRIGGER simulated_ends AFTER UPDATE ON {_STATES}
    WHEN OLD.paused_by = 'worker' AND NEW.paused_by = '' BEGIN
    INSERT INTO simulated_ends VALUES (NEW.account_id, OLD.paused_at, simulated_now(), simulated_actor()); END""",
    "PRAGMA recursive_triggers = OFF",
)
#: Emptied before each schedule.
TABLES = ("simulated_changes", "simulated_accepted", "simulated_ends")


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

    @property
    def lease_ends(self) -> float:
        """When the new lease ends, on the clock of uptime; 0: there is none."""
        return 0.0 if self.new_lease is None else uptime_of(self.new_lease)

    @property
    def is_renewal(self) -> bool:
        """Whether only the lease was changed."""
        return self.old_status == self.new_status == "sending" and self.old_token == self.new_token

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
