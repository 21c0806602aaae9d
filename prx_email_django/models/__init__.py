"""The tables of the outbox: what a person configures, what is to be sent, what happened, what workers learned."""

from prx_email_django.models.account import Account
from prx_email_django.models.activity import HourlyCount, PauseRecord, Worker
from prx_email_django.models.content import Attachment, Content, ContentChunk
from prx_email_django.models.history import DeliveryAttempt, InboundMessage
from prx_email_django.models.message import OutboxMessage, Recipient
from prx_email_django.models.runtime_state import (
    AccountState,
    ConnectionSlot,
    Outbox,
    OutboxState,
    RateWindow,
    RefusedMessage,
)

__all__ = [
    "Account",
    "AccountState",
    "Attachment",
    "ConnectionSlot",
    "Content",
    "ContentChunk",
    "DeliveryAttempt",
    "HourlyCount",
    "InboundMessage",
    "Outbox",
    "OutboxMessage",
    "OutboxState",
    "PauseRecord",
    "RateWindow",
    "Recipient",
    "RefusedMessage",
    "Worker",
]
