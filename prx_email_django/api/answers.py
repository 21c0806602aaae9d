"""What ``send`` and ``retry_outbox`` answer: how the row stands, and in words why no attempt could be made."""

from __future__ import annotations

from dataclasses import replace

from django.utils.translation import gettext as _

from prx_email_django.models import Account, OutboxMessage
from prx_email_django.results import SendResult
from prx_email_django.rules.clock import Clock
from prx_email_django.status.figures import account_facts
from prx_email_django.status.reasons import AccountFacts, obstacle

PAUSED = "paused"


def answer(outbox_id: int, *, code: str = "", error: str = "") -> SendResult:
    """The row's own state; ``code`` and ``error`` say why no attempt was made, where none was."""
    row = OutboxMessage.objects.get(pk=outbox_id)
    return SendResult(
        outbox_id=row.pk,
        status=str(row.status),
        retries=row.retries,
        provider_message_id=row.provider_message_id,
        next_attempt_at=row.next_attempt_at,
        error=error if code else row.last_error,
        error_code=code or row.last_error_code,
    )


def why_paused(account: Account, *, clock: Clock) -> str:
    """Until when, and the reason."""
    facts = account_facts([account], now=clock.now)[account.pk]
    paused = AccountFacts(name=facts.name, outbox=facts.outbox, pause=facts.pause)
    return obstacle(paused, now=clock.now) or _("paused a moment ago, and resumed since")


def why_no_connection(account: Account, *, heed_pause: bool, clock: Clock) -> str:
    """All of them are taken, by whomever; or after a pause another message is being tried first, or has failed."""
    most = account.max_connections
    if heed_pause:
        found = account_facts([account], now=clock.now)[account.pk]
        known = obstacle(replace(found, is_active=True, outbox=None, reached=()), now=clock.now)
        if known:
            return known
    return obstacle(AccountFacts(name=account.name, connections=most, max_connections=most), now=clock.now)


def why_given_back(account: Account, *, clock: Clock) -> str:
    """A limit is used up, or what is left of it does not do for all recipients; else a connection was lost."""
    facts = account_facts([account], now=clock.running)[account.pk]
    known = obstacle(replace(facts, is_active=True, outbox=None, pause=None), now=clock.running)
    if known:
        return known
    if "recipients" in account.rate_limits:
        return _("too little is left of %(limits)s for all its recipients") % {"limits": account.rate_limits}
    return _("no connection or permit was free at that moment")
