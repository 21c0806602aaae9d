"""Header fields of a rendered message, made again where the standard library changes what the caller wrote.

It makes encoded words of long words in ASCII, and of text beside URIs and lists' names, also where RFC 2047 §5 allows
none (References, List-Unsubscribe, JSON); it makes encoded words of 76 characters, and drops the quotes of a long
display name, so that its commas separate addresses.
"""

from __future__ import annotations

from contextlib import suppress
from email.errors import MessageError

from django.core.mail import EmailMessage

from prx_email_django.django_mail.envelope import InvalidHeader, is_misread_by_django
from prx_email_django.django_mail.normalised import header_texts, is_plain
from prx_email_django.mime.addresses import format_list, split_list
from prx_email_django.mime.encoded_words import decode_words, has_wrong_words, with_right_words
from prx_email_django.mime.field_kinds import ADDRESS_FIELDS, BODY_FIELDS, OTHER_ADDRESS_FIELDS, is_structured
from prx_email_django.mime.headers import any_field, encoded_field, folded_field
from prx_email_django.mime.list_fields import list_in_ascii
from prx_email_django.mime.recode import field_text, split_fields
from prx_email_django.mime.transfer import LINE, MAX_LINE, longest_line
from prx_email_django.rules.text import HEADER_BREAK

#: Fields of ids that may name other messages than this one.
_THREAD_FIELDS = frozenset({"in-reply-to", "references"})


def as_caller_wrote(message: EmailMessage, name: str, encoded: bytes) -> bytes:
    """The field ``name`` (in lower case) of the rendered message; see the docstring of this module.

    Raises:
        InvalidHeader: ``invalid_header``, where a word of the field must not be encoded, and fits on no line.
    """
    if name in ADDRESS_FIELDS:
        made = _with_own_addresses(message, name, encoded)
        made = made if longest_line(made) <= LINE else _folded(made)
        if longest_line(made) > MAX_LINE and _given(message, name):
            raise _too_long(encoded)
        return made
    given = _given(message, name)
    if not is_plain(message) and _compared(given) != _compared(field_text(encoded)):
        given = ""  # an overridden message() wrote another value
    if is_structured(name) and name not in BODY_FIELDS:  # those of the caller are left out
        return _structured(name, encoded, given.strip(" \t"))
    if name in OTHER_ADDRESS_FIELDS and not given.isascii():
        with suppress(ValueError):  # no text that a header can hold
            return any_field(_shown(encoded), given).encode()
    return _unstructured(encoded, given)


def _unstructured(encoded: bytes, given: str) -> bytes:
    if b"=?" not in encoded:
        return encoded if longest_line(encoded) <= LINE else _folded(encoded)
    written = field_text(encoded)
    meant = decode_words(written)
    # A text that shows an encoded word, and words of the caller's own, stay encoded.
    is_text = meant.isascii() and "=?" not in meant and "=?" not in given
    if is_text and not HEADER_BREAK.search(meant):
        return any_field(_shown(encoded), meant).encode()
    return encoded_field(_shown(encoded), written).encode() if has_wrong_words(written) else encoded


def _structured(name: str, encoded: bytes, given: str) -> bytes:
    """A field in which encoded words have no place, or only in comments and phrases (RFC 2047 §5).

    A value in ASCII is the caller's, word for word.  An id that holds other characters is left out: no message has it.
    """
    written = field_text(encoded)
    meant = given or decode_words(written)
    if meant == written and longest_line(encoded) <= LINE:
        return encoded
    if not meant.isascii():
        if name in _THREAD_FIELDS:
            meant = " ".join(word for word in meant.split() if word.isascii())
        elif name.startswith("list-"):
            meant = list_in_ascii(meant)
    if not meant.isascii() or HEADER_BREAK.search(meant):
        return _with_right_words(encoded)
    try:
        return any_field(_shown(encoded), meant).encode() if meant else b""
    except ValueError as error:
        if given or name.startswith("list-"):
            raise _too_long(encoded) from error
        return encoded


def _too_long(encoded: bytes) -> InvalidHeader:
    return InvalidHeader(
        f"headers: each part of {_shown(encoded)} must fit on a line of {MAX_LINE} characters (RFC 5322 §2.1.1)",
        code="invalid_header",
    )


def _given(message: EmailMessage, name: str) -> str:
    """The value of the caller's own header; empty where there is none."""
    return next((value for header, value in header_texts(message) if header.lower() == name), "")


def _shown(encoded: bytes) -> str:
    """The name of the field as it is written."""
    return encoded.partition(b":")[0].decode("ascii")


def _folded(encoded: bytes) -> bytes:
    """The field folded anew; the standard library leaves some lines long."""
    text = field_text(encoded)
    try:
        return folded_field(_shown(encoded), text).encode() if text.isascii() else encoded
    except ValueError:
        return encoded


def _is_unquoted_by_django(mailbox: str) -> bool:
    """Whether Django 6.1 may drop the quotes of a name, or decode a name and write it without quotes."""
    return ('"' in mailbox and len(mailbox) > LINE - 8) or "=?" in mailbox


def _with_own_addresses(message: EmailMessage, name: str, encoded: bytes) -> bytes:
    """The field, made again if it holds an address that Django writes differently."""
    given = _given_addresses(message, name)
    try:
        found = [mailbox for value in given for mailbox in split_list(value)]
        is_changed = any(is_misread_by_django(mailbox) or _is_unquoted_by_django(mailbox) for mailbox in found)
        if not is_changed or not _is_made_by_django(message, name, encoded):
            return _with_short_words(encoded)
        own = ", ".join(map(_formatted, given))
        return folded_field(_shown(encoded), own).encode()
    except ValueError:  # a header of the caller's own that holds more than addresses, or malformed ones
        return _with_right_words(encoded)


def _is_made_by_django(message: EmailMessage, name: str, encoded: bytes) -> bool:
    """Whether the field says what Django makes of the attributes: an overridden ``message()`` may hide recipients."""
    if is_plain(message):
        return True
    bare = EmailMessage(from_email=message.from_email, to=message.to, cc=message.cc, reply_to=message.reply_to)
    bare.extra_headers = {header: value for header, value in header_texts(message) if header.lower() == name}
    try:
        made = bare.message().as_bytes()
    except (AttributeError, LookupError, MessageError, RecursionError, TypeError, ValueError):
        return False  # addresses that it cannot parse
    fields = dict(reversed(split_fields(made)[0]))
    return _compared(field_text(fields.get(name, b""))) == _compared(field_text(encoded))


def _compared(text: str) -> str:
    return "".join(decode_words(text).split())


def _with_right_words(encoded: bytes) -> bytes:
    return with_right_words(encoded.decode("ascii", "surrogateescape")).encode("ascii", "surrogateescape")


def _with_short_words(encoded: bytes) -> bytes:
    text = field_text(encoded)
    if not has_wrong_words(text):
        return encoded
    return folded_field(_shown(encoded), format_list(text)).encode()


def _formatted(value: str) -> str:
    """The addresses of ``value``; one that only Django's parser reads, such as ``webmaster``, stays as it is."""
    try:
        return format_list(value)
    except ValueError:
        if not value.isascii():
            raise
        return value


def _given_addresses(message: EmailMessage, name: str) -> list[str]:
    """What the caller gave for the header field: addresses, or a list of them."""
    if any(header.lower() == name for header in message.extra_headers):
        return [_given(message, name)]
    if name == "from":
        return [str(message.from_email)]
    attribute = {"to": "to", "cc": "cc", "reply-to": "reply_to"}.get(name)
    return [str(address) for address in getattr(message, attribute)] if attribute else []
