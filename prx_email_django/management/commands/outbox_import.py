"""``manage.py outbox_import``: moves waiting mail of django-post_office or django-mailer into the outbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from tqdm import tqdm

from prx_email_django.contrib.importing import SOURCES, ImportRefused, Source
from prx_email_django.contrib.importing.history import import_history, kept_history
from prx_email_django.contrib.importing.moving import Options, Tell, give_back, import_waiting
from prx_email_django.management._common import OutboxCommand, account_named, past, plain_errors
from prx_email_django.rules.words import in_words

#: Outcome -> words of the summary; the first is always shown.
IN_WORDS = {
    "imported": gettext_noop("imported"),
    "returned": gettext_noop("given back"),
    "known": gettext_noop("already here"),
    "refused": gettext_noop("refused"),
    "busy": gettext_noop("being sent by the old package"),
    "gone": gettext_noop("sent or deleted there meanwhile"),
    "kept": gettext_noop("kept here"),
}


class Command(OutboxCommand):
    """Calls ``contrib.importing``.  Exit code 0, also if messages were refused; 1 if nothing could be done."""

    help = gettext_noop(
        "Moves the waiting mail of django-post_office or django-mailer into the outbox, each message in "
        "one transaction: it is queued here with its priority, schedule, expiry, headers and files, and "
        "taken out of the other queue. It may be run again at any time. Switch EMAIL_BACKEND first, and "
        "stop the other package's workers: post_office has no lock in the database."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the package and the options."""
        parser.add_argument("package", choices=sorted(SOURCES), help=_("the package whose mail is moved"))
        parser.add_argument(
            "--account",
            metavar="NAME",
            help=_(
                "account for all messages; if omitted, that of the message's backend alias, of ACCOUNT_ROUTER, "
                "or the default account"
            ),
        )
        parser.add_argument(
            "--since", type=past, metavar="WHEN", help=_("only mail queued there since then: 2026-11-25, 5d")
        )
        parser.add_argument(
            "--failed", action="store_true", help=_("also mail that the package has given up; it is due now")
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--history",
            action="store_true",
            help=_("copy sent mail instead, as sent messages, as far as RETENTION keeps it"),
        )
        what.add_argument(
            "--back",
            action="store_true",
            help=_("the way back: imported mail that still waits here returns to the package"),
        )
        parser.add_argument("--dry-run", action="store_true", help=_("change nothing, only print what would happen"))
        parser.add_argument(
            "--no-progress", action="store_true", help=_("show no progress bar; it is shown only in a terminal")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Move or copy the messages, print each one that stays, and the numbers at the end."""
        with plain_errors(), ExitStack() as stack:
            if options["account"] is not None:
                account_named(options["account"])
            try:
                source = SOURCES[options["package"]]()
                if not options["dry_run"] and not options["history"]:
                    stack.enter_context(source.lock())
                self._run(source, options)
            except ImportRefused as error:
                raise CommandError(f"{in_words(error, _)}.") from error

    def _run(self, source: Source, options: dict[str, Any]) -> None:
        chosen = Options(account=options["account"] or "", dry_run=options["dry_run"])
        if options["back"]:
            with self._progress(source, 0, options) as tell:
                give_back(source, chosen, tell)
            return
        rows = kept_history(source) if options["history"] else source.waiting(failed=options["failed"])
        if options["since"] is not None:
            rows = source.since(rows, past(options["since"]))
        with self._progress(source, rows.count(), options) as tell:
            (import_history if options["history"] else import_waiting)(source, rows, chosen, tell)
        if options["history"]:
            older = source.sent().count() - kept_history(source).count()
            self._print_left(source, [(older, _("older than RETENTION keeps sent messages"))])
        else:
            self._print_left(source, source.left(failed=options["failed"]))

    @contextmanager
    def _progress(self, source: Source, total: int, options: dict[str, Any]) -> Iterator[Tell]:
        """Print every row that needs words, show a progress bar, and print the numbers at the end, or so far."""
        counts: Counter[str] = Counter()
        bar: tqdm[Any] = tqdm(
            total=total, unit=_(" messages"), disable=True if options["no_progress"] else None, leave=False
        )

        def tell(outcome: str, pk: int, detail: str) -> None:
            counts[outcome] += 1
            bar.update()
            if detail:
                self._say(bar, f"{source.app} {pk}: {_(IN_WORDS[outcome])}: {detail}")

        try:
            with bar:
                yield tell
        finally:
            first = "returned" if options["back"] else "imported"
            shown = [name for name in IN_WORDS if counts[name] or name == first]
            numbers = ", ".join(f"{_(IN_WORDS[name])} {counts[name]}" for name in shown)
            self.stdout.write(
                _("nothing is changed; it would be: %(numbers)s") % {"numbers": numbers}
                if options["dry_run"]
                else numbers
            )

    def _say(self, bar: tqdm[Any], text: str) -> None:
        with bar.external_write_mode():
            self.stdout.write(text)

    def _print_left(self, source: Source, left: Iterable[tuple[int, str]]) -> None:
        for count, words in left:
            if count:
                self.stdout.write(
                    _("left in %(title)s: %(count)s %(words)s")
                    % {"title": source.title, "count": count, "words": words}
                )
