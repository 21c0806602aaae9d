"""Lexical tokens of address fields (RFC 5322 §3.2), read once from left to right: any text is read in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

#: An encoded word (some senders leave commas and quotes in it), a domain literal, or text without a character of
#: meaning; else that character.
_TEXT = re.compile(r'=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=|\[[^\[\]"(<>,;@]*\]|[^\[="(<>,;:]+|[\[=]')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_IN_COMMENT = re.compile(r"[()]|\\.", re.DOTALL)

#: A mailbox; the name of a group; the end of a group.
ElementKind = Literal["mailbox", "group", "group end"]


class Token(NamedTuple):
    """``written`` is the token as it stands in the field, with its quotes or parentheses."""

    kind: Literal["text", "quoted", "comment", "mark"]
    written: str

    @property
    def text(self) -> str:
        """What the token says: without quotes, or the parentheses of a comment, and without backslashes."""
        if self.kind in {"quoted", "comment"}:
            return re.sub(r"\\(.)", r"\1", self.written[1:-1], flags=re.DOTALL)
        return self.written


def tokens(text: str) -> list[Token]:
    """The tokens of the text.

    A quote that is never closed is a mark, and so are all later ones: none is searched again.  A parenthesis that is
    never closed is text, and so are all later ones.
    """
    found: list[Token] = []
    at, quotes, comments = 0, True, True
    while at < len(text):
        kind: Literal["text", "quoted", "comment", "mark"] = "mark"
        end = at + 1
        if match := _TEXT.match(text, at):
            kind, end = "text", match.end()
        elif text[at] == '"' and quotes:
            match = _QUOTED.match(text, at)
            kind, end, quotes = ("quoted", match.end(), True) if match else ("mark", at + 1, False)
        elif text[at] == "(":
            end = _comment_end(text, at) if comments else 0
            kind, end, comments = ("comment", end, True) if end else ("text", at + 1, False)
        found.append(Token(kind, text[at:end]))
        at = end
    return found


def _comment_end(text: str, start: int) -> int:
    """The index behind a comment, which may hold comments; 0: it is never closed."""
    depth = 0
    for match in _IN_COMMENT.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return 0


def elements(text: str) -> Iterator[tuple[ElementKind, list[Token]]]:
    """The mailboxes and groups of a list, each with its tokens (a group: those of its name).

    A comma, a semicolon, or a quote that is never closed ends a mailbox, also one whose angle bracket is never closed.
    """
    item: list[Token] = []
    in_angle = in_group = False
    for token in tokens(text):
        mark = token.written if token.kind == "mark" else ""
        if mark == ":" and not in_angle:
            yield "group", item
            in_group, item = True, []
        elif mark and mark in ',;"':
            yield from _mailbox(item)
            if mark == ";" and in_group:
                yield "group end", []
                in_group = False
            item, in_angle = [], False
        else:
            item.append(token)
            if mark == "<" or mark == ">":
                in_angle = mark == "<"
    yield from _mailbox(item)
    if in_group:
        yield "group end", []


def _mailbox(item: list[Token]) -> Iterator[tuple[ElementKind, list[Token]]]:
    if any(token.written.strip() for token in item):
        yield "mailbox", item
