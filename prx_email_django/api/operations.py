"""Operations on messages and accounts; all of them may be called inside ``atomic()``."""

from __future__ import annotations

from datetime import datetime, timedelta

from prx_email_django.api.keys import MessageRefs, message_rows
from prx_email_django.api.wake import wake_on_commit
from prx_email_django.compose.accounts import AccountRef, resolve_account
from prx_email_django.compose.validation import as_text, check_instant, check_reason
from prx_email_django.conf import outbox_settings
from prx_email_django.limits.pauses import pause_by_person, resume_by_person
from prx_email_django.results import ChangeReport
from prx_email_django.rules.text import MAX_COLUMN
from prx_email_django.store.adopt import adopt
from prx_email_django.store.db import clock_for
from prx_email_django.store.operations import cancel, confirm, dismiss, requeue
from prx_email_django.store.outbox import pause_everything, resume_everything
from prx_email_django.store.purge import PurgeReport, purge


def requeue_outbox(ids_or_queryset: MessageRefs, *, now: datetime | None = None, force: bool = False) -> ChangeReport:
    """Make failed messages (with ``force`` also pending ones) due now; a drain is woken."""
    check_instant("now", now)
    report = requeue(message_rows(ids_or_queryset), clock=clock_for(now), force=force)
    if report.changed:
        wake_on_commit()
    return report


def cancel_outbox(ids_or_queryset: MessageRefs, *, now: datetime | None = None) -> ChangeReport:
    """Put waiting messages at rest."""
    check_instant("now", now)
    return cancel(message_rows(ids_or_queryset), clock=clock_for(now))


def dismiss_outbox(ids_or_queryset: MessageRefs) -> ChangeReport:
    """Take messages at rest off the list of those that need a person; a later retry or requeue puts them back on it."""
    return dismiss(message_rows(ids_or_queryset), clock=clock_for(None))


def confirm_outbox(ids_or_queryset: MessageRefs, *, now: datetime | None = None) -> ChangeReport:
    """Record that messages of unknown outcome have arrived."""
    check_instant("now", now)
    report = confirm(message_rows(ids_or_queryset), clock=clock_for(now))
    if report.changed:
        wake_on_commit()
    return report


def pause_outbox(
    account: AccountRef | None = None, *, reason: str, until: datetime | None = None, by: str = ""
) -> None:
    """Send nothing over one account, or (None) nothing at all, until it is resumed or ``until`` has passed.

    ``by``: who pauses, for the history (``PauseRecord``).

    Raises:
        InvalidMessage: ``invalid_option`` where the reason is empty or ``until`` has no time zone.
        AccountUnavailable: no such account.
    """
    check_instant("until", until)
    reason, by = as_text(reason), as_text(by)
    check_reason(reason)
    clock = clock_for(None)
    if account is None:
        pause_everything(reason=reason[:MAX_COLUMN], until=until, by=by, clock=clock)
    else:
        pause_by_person(resolve_account(account, active=False), reason=reason, until=until, by=by, clock=clock)


def resume_outbox(account: AccountRef | None = None, *, by: str = "") -> None:
    """End the pause of one account, or (None) of everything; a drain is woken.  ``by`` as for ``pause_outbox``."""
    by = as_text(by)
    clock = clock_for(None)
    if account is None:
        resume_everything(by=by, clock=clock)
    else:
        resume_by_person(resolve_account(account, active=False), by=by, clock=clock)
    wake_on_commit()


def adopt_outbox(*, now: datetime | None = None) -> int:
    """Take over a copied database: put everything unsent at rest as ``adopted``, and return the number of messages."""
    return adopt(outbox_settings().instance, clock=clock_for(now))


def purge_outbox(
    *, older_than: timedelta | None = None, dry_run: bool = False, now: datetime | None = None
) -> PurgeReport:
    """Delete one bounded batch of old finished messages, by ``RETENTION`` or ``older_than``; total 0: none is left."""
    return purge(clock=clock_for(now), older_than=older_than, dry_run=dry_run)
