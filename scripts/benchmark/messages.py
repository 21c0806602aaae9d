"""The messages of every candidate: one recipient, plain text and HTML, about two kilobytes, each different."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

SENDER = "shop@example.com"
SENTENCE = "Thank you for your order; we will write again when the goods are on their way. "
TEXT_LENGTH = 700
HTML_LENGTH = 1100


def recipient(number: int) -> str:
    """Return a different address for each message."""
    return f"customer{number}@example.org"


def subject(number: int) -> str:
    """Return a different subject for each message."""
    return f"Your order {number}"


def text(number: int) -> str:
    """Return the plain text."""
    return _lines(f"Order {number}.\n", TEXT_LENGTH)


def html(number: int) -> str:
    """Return the HTML."""
    return f"<html><body><p>Order {number}.</p>\n<p>{_lines('', HTML_LENGTH)}</p></body></html>\n"


def arguments(number: int) -> dict[str, str]:
    """Return the arguments of ``enqueue()``."""
    return {
        "to": recipient(number),
        "subject": subject(number),
        "body_text": text(number),
        "body_html": html(number),
    }


def arguments_of_post_office(number: int) -> dict[str, str]:
    """Return the arguments of django-post_office's ``send()``."""
    return {
        "sender": SENDER,
        "recipients": recipient(number),
        "subject": subject(number),
        "message": text(number),
        "html_message": html(number),
    }


def encoded(number: int) -> bytes:
    """Return the whole message as bytes, written by the standard library."""
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"] = SENDER, recipient(number)
    message["Subject"], message["Date"] = subject(number), formatdate()
    message["Message-ID"] = make_msgid(domain="example.com")
    message.set_content(text(number))
    message.add_alternative(html(number), subtype="html")
    return message.as_bytes()


def _lines(begin: str, length: int) -> str:
    return begin + "".join(f"{SENTENCE}\n" for _ in range(length // len(SENTENCE)))
