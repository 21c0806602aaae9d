"""Sentences in English that can still be translated where a person reads them.

Settings are read before Django can translate, and what is logged or raised stays English: so such a sentence is text in
English that remembers its template and its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Words(str):
    """A sentence in English; made by ``words``."""

    template: str
    values: Mapping[str, object]


def words(template: str, /, **values: object) -> Words:
    """The sentence of a template (``%(name)s``) and its values, which may be such sentences themselves."""
    made = Words(template % values if values else template)
    made.template, made.values = template, values
    return made


def in_words(text: object, translate: Callable[[str], str]) -> str:
    """The text translated if it was made by ``words``, else as it is; of an exception its first argument."""
    if isinstance(text, Exception):
        text = text.args[0] if text.args else ""
    if not isinstance(text, Words):
        return f"{text}"
    translated = translate(text.template)
    return (
        translated % {name: _value(value, translate) for name, value in text.values.items()}
        if text.values
        else translated
    )


def _value(value: object, translate: Callable[[str], str]) -> object:
    return in_words(value, translate) if isinstance(value, (Words, Exception)) else value
