"""Errors that the public functions raise, before anything is written.

``code`` is stable and meant for programs, the text for people.  The text of four attachment errors is the
words below, which stay word for word.  A refused type has a note (PEP 678) that names the type and the setting: it
stands below the text in a traceback, and in ``error.__notes__``.
"""

from __future__ import annotations

from typing import ClassVar

ATTACHMENT_TOO_LARGE = "attachment exceeds size limit"
ATTACHMENT_TYPE_NOT_ALLOWED = "attachment content type is not allowed"
ATTACHMENT_STORE_NOT_CONFIGURED = "attachment store not configured"
ATTACHMENT_PATH_ESCAPES_ROOT = "attachment path escapes storage root"


class OutboxError(Exception):
    """Base class of the errors of this app; ``code`` is in ``codes`` of its class."""

    codes: ClassVar[frozenset[str]] = frozenset()

    # Pickle and copy call this without the code, and set it afterwards.
    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class InvalidMessage(OutboxError):
    """An argument is invalid: the message can never be sent like this."""

    codes = frozenset(
        {
            "empty_to",
            "empty_subject",
            "empty_body",
            "invalid_address",
            "header_injection",
            "invalid_header",
            "invalid_option",
            "message_too_large",
        }
    )


class AttachmentRejected(OutboxError):
    """An attachment violates the policy, or could not be read."""

    codes = frozenset(
        {
            "attachment_too_large",
            "attachment_type_not_allowed",
            "attachment_store_not_configured",
            "attachment_path_escapes_root",
            "attachment_not_found",
            "attachment_invalid_base64",
            "attachment_source",
        }
    )


class RetryRejected(OutboxError):
    """``retry_outbox`` was refused: the message is sent, is being sent, does not exist, or is not due yet.

    ``resend_outbox`` and ``copy_outbox`` raise it too, where the message or its content does not exist any more.
    """

    codes = frozenset({"not_retriable", "retry_not_due", "not_found"})


class ReplyRejected(OutboxError):
    """The message to reply to was not recorded."""

    codes = frozenset({"parent_not_found"})


class WrongInstance(OutboxError):
    """The database belongs to another ``INSTANCE``: adopt a copy (``outbox_adopt``) before you send from it."""

    codes = frozenset({"wrong_instance"})


class AccountUnavailable(OutboxError):
    """There is no such account, or it is switched off, or no account was named and there is no default account."""

    codes = frozenset({"account_not_found", "account_inactive", "no_default_account"})


class SendInsideTransaction(OutboxError):
    """A function that sends was called inside ``atomic()``; use ``enqueue`` there."""

    codes = frozenset({"inside_transaction"})
