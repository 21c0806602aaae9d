"""Errors that the public functions raise; nothing has been written when one is raised.

``code`` is stable and meant for programs, the text for people.  The four attachment texts are those of the page that
this app re-creates, word for word.
"""

from __future__ import annotations

from typing import ClassVar

ATTACHMENT_TOO_LARGE = "attachment exceeds size limit"
ATTACHMENT_TYPE_NOT_ALLOWED = "attachment content type is not allowed"
ATTACHMENT_STORE_NOT_CONFIGURED = "attachment store not configured"
ATTACHMENT_PATH_ESCAPES_ROOT = "attachment path escapes storage root"


class OutboxError(Exception):
    """Base of every error of this app; ``code`` is one of the class's ``codes``."""

    codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, message: str, *, code: str = "") -> None:  # pickle and copy call it without, and set it then
        super().__init__(message)
        self.code = code


class InvalidMessage(OutboxError):
    """The message can never be sent as it was given."""

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
    """An attachment breaks the policy, or could not be read."""

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
    """``retry_outbox`` was refused: the message is sent, being sent, unknown, or not due yet."""

    codes = frozenset({"not_retriable", "retry_not_due", "not_found"})


class ReplyRejected(OutboxError):
    """The message to reply to was never recorded."""

    codes = frozenset({"parent_not_found"})


class WrongInstance(OutboxError):
    """This database belongs to another ``INSTANCE``: a copy must be adopted before it sends (``outbox_adopt``)."""

    codes = frozenset({"wrong_instance"})


class AccountUnavailable(OutboxError):
    """No account of that name or key, or it is switched off, or none was named and there is no default."""

    codes = frozenset({"account_not_found", "account_inactive", "no_default_account"})


class SendInsideTransaction(OutboxError):
    """A function that speaks SMTP was called inside ``atomic()``; use ``enqueue`` there."""

    codes = frozenset({"inside_transaction"})
