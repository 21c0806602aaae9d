"""Messages that somebody else made, and that are forwarded: name -> bytes.  Most of them break a rule."""

from __future__ import annotations

HEAD = b"From: Zoe <zoe@example.net>\r\nTo: ann@example.org\r\nSubject: Offer\r\nMIME-Version: 1.0\r\n"


def _multipart(
    content_type: bytes = b'multipart/mixed; boundary="=_b"',
    text: bytes = b"Hi\r\n",
    disposition: bytes = b"attachment",
) -> bytes:
    return (
        HEAD
        + b"Content-Type: "
        + content_type
        + b"\r\n\r\npreamble\r\n--=_b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        + text
        + b"\r\n--=_b\r\nContent-Type: application/pdf\r\nContent-Disposition: "
        + disposition
        + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQK\r\n--=_b--\r\n"
    )


RAW_NAME = 'attachment; filename="größe.pdf"'.encode()
LONG_RAW_NAME = ('attachment; filename="größe ' + "x" * 90 + '.pdf"').encode()

#: Carried without a change of one byte where the server offers 8BITMIME.
KEPT: dict[str, bytes] = {
    "seven_bits": _multipart(),
    "raw_file_name": _multipart(disposition=RAW_NAME),
    "long_raw_file_name": _multipart(disposition=LONG_RAW_NAME),
    "latin_1_file_name": _multipart(disposition='attachment; filename="größe.pdf"'.encode("latin-1")),
    "raw_file_name_and_text": _multipart(text="Grüße\r\n".encode(), disposition=RAW_NAME),
    "raw_name_in_the_type": _multipart('multipart/mixed; boundary="=_b"; name="größe"'.encode()),
    "malformed_from": "From: Jörg <joerg@@example.net> <x, ,\r\nSubject: Offer\r\n\r\nhi\r\n".encode(),
    "malformed_from_in_ascii": b"From: <<zoe@@example.net>, ;:\r\nTo: undisclosed\r\n\r\nhi\r\n",
    "subject_in_latin_1": "Subject: größer\r\n\r\nhi\r\n".encode("latin-1"),
    "no_boundary": HEAD + "Content-Type: multipart/mixed\r\n\r\nGrüße\r\n".encode(),
    "boundary_that_never_comes": HEAD + 'Content-Type: multipart/mixed; boundary="=_b"\r\n\r\nGrüße\r\n'.encode(),
    "no_boundary_in_ascii": HEAD + b"Content-Type: multipart/mixed\r\n\r\nHello\r\n",
    "multipart_without_semicolon": _multipart(b'multipart/mixed boundary="=_b"', text="Grüße\r\n".encode()),
    "no_closing_boundary": _multipart(disposition=RAW_NAME).removesuffix(b"--=_b--\r\n"),
    "unknown_encoding": HEAD + b"Content-Transfer-Encoding: x-odd\r\n\r\n\xff\xfe\r\n",
    "broken_base64": HEAD + b"Content-Transfer-Encoding: base64\r\n\r\n=\xff=AAA\r\n",
    "dkim": HEAD + "DKIM-Signature: v=1; bh=x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n".encode(),
    "long_header_lines": HEAD
    + b"References:"
    + b" <0123456789@example.net>" * 30
    + b"\r\nList-Unsubscribe: <https://e.net/"
    + b"u" * 400
    + b">\r\nX-Odd: two\t blanks \r\n\r\nhi\r\n",
    "empty": b"",
    "headers_only": b"Subject: Offer\r\nX-Last: one\r\n",
    "blank_line_first": b"\r\nSubject: no header\r\n",
    "no_blank_line": b"Subject: Offer\r\nthis line is no header field\r\n",
    "line_that_is_no_field": "From: zoe@example.net\r\nbroken line\r\nSubject: Größe\r\n\r\nhi\r\n".encode(),
    "mbox_line": b"From zoe@example.net Mon Jan  1 00:00:00 2026\r\nSubject: Offer\r\n\r\nhi\r\n",
}
#: Encoded on the way without loss: the parts are read as before.
ENCODED: dict[str, bytes] = {
    "eight_bits": _multipart(text="Grüße\r\n".encode()),
    "eight_bits_as_seven": HEAD + "Content-Transfer-Encoding: 7bit\r\n\r\nGrüße\r\n".encode(),
    "comments_in_the_type": _multipart(b'multipart/mixed (of (two) parts); boundary="=_b"', text="Grüße\r\n".encode()),
    "latin_1_text": HEAD + b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n",
    "long_line": _multipart(text=b"x" * 2000 + b"\r\n"),
    "nul_in_a_body": _multipart(text=b"a\x00b\r\n"),
    "utf_16_text": HEAD + b"Content-Type: text/plain; charset=utf-16\r\n\r\n" + "Größe\r\nist\n".encode("utf-16"),
    "raw_subject": "From: Zoë <zoe@example.net>\r\nSubject: Größe\r\n\r\nhi\r\n".encode(),
}
#: What no server can be given as it is: carried as a file.
FILES: dict[str, bytes] = {
    "nul_in_a_header": b"From: zoe@example.net\r\nSubject: a\x00b\r\nX-Id: 7\r\n\r\nhi\r\n",
    "no_boundary_and_a_long_line": HEAD + b"Content-Type: multipart/mixed\r\n\r\n" + b"\xff" * 2000 + b"\r\n",
    "header_word_of_2000": b"From: zoe@example.net\r\nReferences: <" + b"r" * 2000 + b"@example.net>\r\n\r\nhi\r\n",
}
