"""``erase_address``: removes one person's address and mail from the outbox."""

from __future__ import annotations

from datetime import datetime

from prx_email_django.compose.validation import as_text, check_instant
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.results import ErasureReport
from prx_email_django.rules.domains import shown_domain
from prx_email_django.rules.erasure import ErasedAddress
from prx_email_django.rules.words import words as _
from prx_email_django.store.db import clock_for
from prx_email_django.store.erase import erase_messages
from prx_email_django.store.erase_records import accounts_with, erase_admin_log, erase_inbound, redact_texts


def erase_address(address: str, *, dry_run: bool = False, now: datetime | None = None) -> ErasureReport:
    """Erase an address, in any case, and the content of the mail to and from it, from all tables of the outbox.

    Messages only to the address are deleted, those to others too are emptied if they are sent; a message that is not
    sent yet does not go to the address any more.  It works in batches, can be interrupted, and can be repeated: as long
    as ``left`` is not empty it must be.  ``dry_run``: change nothing and return what would be done.

    Raises:
        InvalidMessage: ``invalid_address``; ``invalid_option`` where an account has this address.
    """
    check_instant("now", now)
    erased = _spelled(address)
    if names := accounts_with(erased):
        listed = ", ".join(f"“{name}”" for name in names)
        raise InvalidMessage(
            _("the address belongs to the account %(names)s: change or delete the account first", names=listed),
            code="invalid_option",
        )
    messages = erase_messages(erased, clock=clock_for(now), dry_run=dry_run)
    inbound = erase_inbound(erased, dry_run=dry_run)
    gone = [*messages.deleted, *messages.emptied]
    texts = redact_texts(erased, dry_run=dry_run)
    texts += erase_admin_log(erased, messages=gone, inbound=inbound, dry_run=dry_run)
    return ErasureReport(
        deleted=len(messages.deleted),
        emptied=len(messages.emptied),
        withdrawn=len(messages.withdrawn),
        received=len(inbound),
        texts=texts,
        left=tuple(messages.left),
    )


def _spelled(address: str) -> ErasedAddress:
    try:
        spec = split_mailbox(as_text(address)).addr_spec
    except ValueError as error:
        raise InvalidMessage(
            _("the address cannot be read: %(problem)s", problem=error), code="invalid_address"
        ) from None
    local, _at, domain = spec.rpartition("@")
    # As it was given too: SQLite knows no lower case beyond ASCII.
    return ErasedAddress(tuple(dict.fromkeys([spec.lower(), f"{local}@{shown_domain(domain)}".lower(), spec])))
