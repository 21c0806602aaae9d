"""Messages that need not be rendered when they are queued: the outbox's own columns hold all that they say.

These are messages of Django's own classes with text, HTML or both, and neither headers nor files.  To render one takes
longer than everything else, and its bytes would be stored beside the texts; a worker renders it as it renders a message
of ``enqueue``.  Whatever is unusual is rendered by Django (``source``), which the recipient then gets.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

from prx_email_django.conf.reader import default_charset
from prx_email_django.mime.addresses import is_usual, split_mailbox
from prx_email_django.models.foreign_text import holds_all_text
from prx_email_django.models.managers import outbox_connection
from prx_email_django.rules.text import CONTROL, is_text

#: Characters of the bodies; longer ones are stored as content, in chunks.
MAX_BODIES = 256 * 1024
#: Characters of an address or a subject: a longer one is folded, and Django and the outbox fold differently.
_MAX_ADDRESS, _MAX_SUBJECT = 70, 500
_OWN = (EmailMessage, EmailMultiAlternatives)
_MODULES = {"django.core.mail", "django.core.mail.message", "django.utils.deprecation"}
#: The attributes of the classes when their methods were last found to be Django's.
_djangos_attributes: list[object] = []
#: Attributes whose other values change how Django renders.
_USUAL = {"mixed_subtype": "mixed", "alternative_subtype": "alternative"}


def plain_columns(message: EmailMessage) -> dict[str, Any] | None:
    """The columns that say all of the message; None: it must be rendered."""
    if type(message) not in _OWN or message.attachments or message.extra_headers or not _is_djangos_own(message):
        return None
    bodies = _bodies(message)
    if bodies is None or not _is_subject(message.subject):
        return None
    addresses = {name: getattr(message, name) for name in ("to", "cc", "bcc", "reply_to")}
    given = [message.from_email, *(address for some in addresses.values() for address in some)]
    if not message.to or not all(map(_is_simple, given)):
        return None
    columns: dict[str, Any] = {
        **{name: list(map(str, some)) for name, some in addresses.items() if some},
        "from_email": str(message.from_email),
        "subject": str(message.subject),
        "body_text": bodies[0],
        "body_html": bodies[1],
    }
    return columns if _can_hold(columns["subject"], *bodies) else None


def _is_djangos_own(message: EmailMessage) -> bool:
    """Whether nobody has replaced a method, and the message is rendered in UTF-8 in the usual form."""
    if any(map(callable, vars(message).values())) or not _has_djangos_methods():
        return False
    if any(getattr(message, name, usual) != usual for name, usual in _USUAL.items()):
        return False
    encoding: object = message.encoding or default_charset()
    return isinstance(encoding, str) and encoding in {"utf-8", "utf8", "UTF-8"}  # Django 5.2 takes a Charset too


def _has_djangos_methods() -> bool:
    """Whether nobody has replaced a method of the classes; looked into again where an attribute is another object."""
    global _djangos_attributes
    attributes = [*vars(EmailMessage).values(), *vars(EmailMultiAlternatives).values()]
    if attributes == _djangos_attributes:
        return True
    methods = (value for value in attributes if isinstance(value, FunctionType))
    if not all(method.__globals__.get("__name__") in _MODULES for method in methods):
        return False
    _djangos_attributes = attributes
    return True


def _bodies(message: EmailMessage) -> tuple[str, str] | None:
    """Text and HTML; None: they must be rendered."""
    alternatives = getattr(message, "alternatives", None) or []
    body: Any = message.body
    if not _is_body(body):
        return None
    if not alternatives:
        return {"plain": (str(body), ""), "html": ("", str(body))}.get(message.content_subtype)
    content, kind = alternatives[0]
    if len(alternatives) > 1 or kind != "text/html" or message.content_subtype != "plain" or not _is_body(content):
        return None
    return str(body), str(content)


def _is_body(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and "\r" not in text and is_text(text)


def _is_subject(subject: object) -> bool:
    if not isinstance(subject, str) or not subject or subject != subject.strip() or "=?" in subject:
        return False
    return len(subject) <= _MAX_SUBJECT and not CONTROL.search(subject)


def _is_simple(address: object) -> bool:
    """Whether Django and the outbox write the address alike."""
    if type(address) is str and is_usual(address):
        return True  # nearly always; such an address is shorter, and has no mark
    if not isinstance(address, str) or len(address) > _MAX_ADDRESS or not address.isascii():
        return False
    if any(mark in address for mark in ('"', "\\", "(", "=?")):
        return False
    try:
        return split_mailbox(address).addr_spec in address
    except ValueError:
        return False


def _can_hold(*texts: str) -> bool:
    """Whether the columns can: MySQL's and MariaDB's have a character set each, and rendered bytes are ASCII."""
    if sum(map(len, texts)) > MAX_BODIES:
        return False
    if all(map(str.isascii, texts)):
        return True
    connection = outbox_connection()
    return connection.vendor != "mysql" and holds_all_text(connection)
