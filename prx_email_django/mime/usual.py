"""The usual message, rendered on a short path: ASCII text, HTML or both, without attachments and own fields.

``usual_message`` gives the bytes that ``rendering.render`` gives, or None: then the message needs ``render``.  It says
no wherever it would have to encode or fold something.  A test compares the two over many messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prx_email_django.mime.addresses import is_usual
from prx_email_django.mime.headers import address_field, is_message_id
from prx_email_django.mime.rendering import boundary_text, date_field, from_field
from prx_email_django.mime.transfer import CONTROLS, MAX_LINE

#: Characters of a Message-ID and of a subject that stand on one line, whatever they hold.
_MAX_ID, _MAX_SUBJECT = 64, 64
#: Looked for one by one, which is faster than any function that looks for all at once; five in each step, since
#: a step of the loop costs half as much as a search.
_CONTROLS = tuple(zip(*[map(chr, CONTROLS)] * 5, strict=True))
_PLAIN_HEAD = 'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n'
_HTML_HEAD = 'Content-Type: text/html; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n'
_HTML = _HTML_HEAD.replace("\r\n", "\n")


def usual_message(  # noqa: PLR0913  (an object that carries them would cost as much as the rest)
    from_email: str, to: Sequence[str], subject: str, message_id: str, date: datetime, text: str, html: str
) -> bytes | None:
    """The bytes of ``render``, all ASCII, or None; the arguments are those of ``MailContent``.

    Raises:
        ValueError: as ``render``.
    """
    if not (text.isascii() and html.isascii() and len(subject) <= _MAX_SUBJECT and subject.isprintable()):
        return None
    if not (len(message_id) <= _MAX_ID and is_message_id(message_id)):
        return None
    if not (text or html):
        return None
    body = html or text
    body = body if body[-1] == "\n" else f"{body}\n"
    if text and html:
        boundary, end = boundary_text("a", message_id), "" if text[-1] == "\n" else "\n"
        body = f"{text}{end}\n--{boundary}\n{_HTML}{body}\n--{boundary}--\n"
        if body.count(boundary) != 2:  # text or HTML has it, too
            return None
        kind = f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"\r\n\r\n--{boundary}\r\n{_PLAIN_HEAD}'
    else:
        kind = _HTML_HEAD if html else _PLAIN_HEAD
    if "\r" in body:
        body = body.replace("\r\n", "\n")
    if not _is_seven_bit(body):
        return None
    head = f"{date_field(date)}Message-ID: {message_id}\r\n{from_field(from_email)}"
    if to:
        head += f"To: {to[0]}\r\n" if len(to) == 1 and is_usual(to[0]) else address_field("To", to)
    head += f"Subject: {subject.strip(' ')}\r\nMIME-Version: 1.0\r\n{kind}"
    return head.encode() + body.encode().replace(b"\n", b"\r\n") if head.isascii() else None


def _is_seven_bit(text: str) -> bool:
    """Whether ASCII text whose line ends are LF goes as ``7bit``: no other control character, and no long line."""
    at = 0
    while len(text) - at > MAX_LINE:
        if (found := text.rfind("\n", at, at + MAX_LINE + 1)) < 0:
            return False
        at = found + 1
    for a, b, c, d, e in _CONTROLS:
        if a in text or b in text or c in text or d in text or e in text:
            return False
    return "\r" not in text
