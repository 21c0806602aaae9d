"""Safe preview of a message's bodies: no script runs, and no request is made.

HTML is shown in a sandboxed frame without any permission, under a content security policy that blocks requests and
scripts, so a tracking pixel is not loaded.  ``cid:`` images are inserted as data URLs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage

from django.db import DatabaseError
from django.utils.translation import gettext as _

from prx_email_django.django_mail.parsed_text import body_of, inline_parts, parsed
from prx_email_django.models import Attachment, OutboxMessage
from prx_email_django.models.content import ContentAltered, read_content

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_HEAD = (
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="referrer" content="no-referrer"><meta http-equiv="x-dns-prefetch-control" content="off">'
    '<base target="_blank">'
)
#: For these elements a browser opens connections before it applies the policy (tried with Chromium:
#: ``link rel=preconnect``, ``iframe``): they are renamed to unknown elements.
_CONNECTING = re.compile(r"<(link|i?frame|frameset|object|embed|applet|portal|fencedframe)\b", re.IGNORECASE)
#: ``base`` makes links open a window, which the sandbox refuses.  A ``target`` of its own could navigate the frame.
_TARGET = re.compile(r"(?<=[\s\"'/])target(?=\s*=)", re.IGNORECASE)
_CID = re.compile(r"cid:([^\s\"'<>)]{1,255})", re.IGNORECASE)
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
#: Most bytes of inline images in one preview, in total.
MAX_IMAGES = 2 * 1024 * 1024
#: A message that its caller rendered is parsed for its bodies up to this many bytes.
MAX_PARSED = 10 * 1024 * 1024
#: Characters of the source that are shown; the download has all of them.
MAX_SOURCE = 200_000


@dataclass(frozen=True, slots=True)
class Bodies:
    """The bodies for the page; ``error`` says why they are not shown."""

    text: str = ""
    srcdoc: str = ""
    error: str = ""


def bodies_of(message: OutboxMessage) -> Bodies:
    """Return the text, and HTML that is safe in an ``iframe``'s ``srcdoc`` (once escaped as an attribute)."""
    if message.raw_id is None or message.body_text or message.body_html:
        html = message.body_html
        return Bodies(message.body_text, safe_document(html, _stored_images(message)) if html else "")
    if message.size > MAX_PARSED:
        return Bodies(error=_("The message is too large to be shown here: download it."))
    try:
        return _parsed(parsed(message.as_sent()))
    except DatabaseError:
        raise
    except Exception as error:  # noqa: BLE001 - TRANSFORM_MIME is code of the host, and content may be anything
        return Bodies(error=str(error))


def safe_document(html: str, images: dict[str, str]) -> str:
    """Return the document with the policy before everything else, so that the document cannot relax it."""
    html = _TARGET.sub("x-target", _CONNECTING.sub(r"<x-\1", html))
    return _HEAD + _CID.sub(lambda match: images.get(match[1], match[0]), html)


def _parsed(email: EmailMessage) -> Bodies:
    text, document = body_of(email, "plain"), body_of(email, "html")
    images = dict(_parsed_images(email)) if "cid:" in document.lower() else {}
    return Bodies(text, safe_document(document, images) if document else "")


def _parsed_images(email: EmailMessage) -> Iterator[tuple[str, str]]:
    left = MAX_IMAGES
    for name, kind, content in inline_parts(email):
        if kind not in _IMAGES:
            continue
        left -= len(content)
        if left >= 0:
            yield name, _data_url(kind, content)


def _stored_images(message: OutboxMessage) -> dict[str, str]:
    if "cid:" not in message.body_html.lower():
        return {}
    images, left = {}, MAX_IMAGES
    for attachment in message.attachments.filter(kind=Attachment.Kind.INLINE).exclude(content=None):
        kind = attachment.content_type.partition(";")[0].strip().lower()
        left -= attachment.size
        if kind not in _IMAGES or left < 0:
            continue
        try:
            images[attachment.inline_id] = _data_url(kind, read_content(attachment.content_id, attachment.sha256))
        except ContentAltered:
            continue
    return images


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
