"""History: mail that the other package has sent, copied into the outbox as sent.  The package's rows stay."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from prx_email_django import api
from prx_email_django.contrib.importing.moving import Options, Queue, Tell, reason
from prx_email_django.contrib.importing.source import Source, keys_of
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import atomic, clock_for, retried_after_conflict
from prx_email_django.store.purge import sent_kept_since


def kept_history(source: Source) -> QuerySet[Any]:
    """The rows of sent mail that RETENTION would not purge at once."""
    return source.sent(sent_kept_since(clock_for(None).now))


def import_history(source: Source, rows: QuerySet[Any], options: Options, tell: Tell) -> None:
    """Copy the rows.

    Outcomes: ``imported``; ``known`` (an earlier run has copied it); ``refused`` with the reason; ``gone``.

    Raises:
        AccountUnavailable: no account for the messages; what was copied before stays.
    """
    queue = Queue(source, options.account)
    for pk in keys_of(rows):
        outcome, detail = _import_one(source, rows, pk, queue, dry_run=options.dry_run)
        tell(outcome, pk, detail)


@retried_after_conflict
def _import_one(source: Source, rows: QuerySet[Any], pk: int, queue: Queue, *, dry_run: bool) -> tuple[str, str]:
    row = rows.filter(pk=pk).first()
    if row is None:
        return "gone", ""
    with atomic():
        try:
            draft = queue.draft(row, source.sent_email(row), source.sent_key(row))
            _, is_new = api.record_sent(draft, source.sent_facts(row))
        except Exception as error:  # noqa: BLE001  (templates, files and pickles of the project raise anything)
            return "refused", reason(error)
        if dry_run:
            transaction.set_rollback(True, using=outbox_alias())
        return ("imported" if is_new else "known"), ""
