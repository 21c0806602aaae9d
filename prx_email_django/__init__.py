"""Email over your own SMTP accounts, through an outbox in your database.

Importing this package does not import models: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prx_email_django.api import (
        adrain,
        aenqueue,
        areply,
        aretry_outbox,
        asend,
        cancel_outbox,
        check_account,
        confirm_outbox,
        copy_outbox,
        dismiss_outbox,
        drain,
        enqueue,
        enqueue_many,
        erase_address,
        pause_outbox,
        record_inbound,
        reply,
        requeue_outbox,
        resend_outbox,
        resume_outbox,
        retry_outbox,
        send,
    )
    from prx_email_django.compose.attachments import AttachmentInput
    from prx_email_django.compose.templates import render_mail
    from prx_email_django.results import (
        AccountReport,
        ChangeReport,
        CheckStep,
        DrainReport,
        ErasureReport,
        FailureMode,
        RenderedMail,
        SendResult,
    )

__version__ = "0.1.0"

_VALUES = {
    "AccountReport": "results",
    "AttachmentInput": "compose.attachments",
    "ChangeReport": "results",
    "CheckStep": "results",
    "DrainReport": "results",
    "ErasureReport": "results",
    "FailureMode": "results",
    "RenderedMail": "results",
    "SendResult": "results",
    "render_mail": "compose.templates",
}

__all__ = [
    "AccountReport",
    "AttachmentInput",
    "ChangeReport",
    "CheckStep",
    "DrainReport",
    "ErasureReport",
    "FailureMode",
    "RenderedMail",
    "SendResult",
    "adrain",
    "aenqueue",
    "areply",
    "aretry_outbox",
    "asend",
    "cancel_outbox",
    "check_account",
    "confirm_outbox",
    "copy_outbox",
    "dismiss_outbox",
    "drain",
    "enqueue",
    "enqueue_many",
    "erase_address",
    "pause_outbox",
    "record_inbound",
    "render_mail",
    "reply",
    "requeue_outbox",
    "resend_outbox",
    "resume_outbox",
    "retry_outbox",
    "send",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_VALUES.get(name, 'api')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
