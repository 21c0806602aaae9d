"""``render_mail``: subject, text and HTML of a message from template files of the project.

Only files that a loader of the project finds are templates.  No text that is stored or queued is ever taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import TemplateDoesNotExist, engines
from django.template.backends.django import DjangoTemplates
from django.template.base import Template
from django.template.context import Context, make_context
from django.template.loader_tags import BLOCK_CONTEXT_KEY, BlockContext, BlockNode, ExtendsNode
from django.utils.translation import override

from prx_email_django.errors import InvalidMessage
from prx_email_django.results import RenderedMail

#: Part of a message -> the end of the name of its file, where each part has a file of its own.
FILES = {"subject": "_subject.txt", "text": "_body.txt", "html": "_body.html"}

#: A link whose words are its address, as inscriptis writes it.  No bracket within: each would be read to the end.
_ADDRESS_TWICE = re.compile(r"\[([^\s\[]+)\]\(\1\)")

_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")

#: Part of a message -> its template, and the block that is rendered of it; an empty name stands for all of it.
Parts: TypeAlias = dict[str, tuple[Template, str]]


def render_mail(
    template: str | Iterable[str],
    context: Mapping[str, Any] | None = None,
    *,
    request: HttpRequest | None = None,
    using: str | None = None,
    language: str | None = None,
) -> RenderedMail:
    """Render a message from the project's template files; the result's fields go into ``enqueue(**…)``.

    ``template``: a name with a suffix is one file with the blocks ``subject``, ``text`` and ``html``
    (``mail/order.html``).  A name without one stands for three files: ``mail/order_subject.txt``,
    ``mail/order_body.txt`` and ``mail/order_body.html``.  Of several names the first that exists is taken.  Text or
    HTML may be absent; a text is made of the HTML then.

    ``context``, ``request``, ``using``: as for Django's ``render_to_string``; the engine must be ``DjangoTemplates``.
    ``language``: the language of the recipient; None: the active one.  Values are escaped in HTML only.  The subject
    becomes one line, blank lines around the text and the HTML are removed.

    Raises:
        InvalidMessage: ``empty_subject``, ``empty_body``: the block or the file is absent, or renders nothing.
        ImproperlyConfigured: there is no Django engine, or the extra ``text`` is needed to make the text.
        TemplateDoesNotExist: the message names all that was tried.
        TypeError: ``context`` is no mapping, for example Django's own ``Context``.
    """
    if context is not None and not isinstance(context, Mapping):
        raise TypeError(f"context must be a mapping rather than {type(context).__name__}")
    names = [template] if isinstance(template, str) else list(template)
    with _in_language(language):
        parts = _found(names, _engines(using))
        subject = " ".join(_rendered(parts, "subject", context, request).split())
        text = _without_blank_ends(_rendered(parts, "text", context, request))
        html = _without_blank_ends(_rendered(parts, "html", context, request))
    if not subject:
        raise InvalidMessage(_nothing(parts, names, "subject"), code="empty_subject")
    if not text and not html:
        raise InvalidMessage(_nothing(parts, names, "text", "html"), code="empty_body")
    return RenderedMail(subject=subject, body_text=text or text_of_html(html), body_html=html)


def text_of_html(html: str) -> str:
    """Readable text of an HTML body: tables are aligned, links keep their addresses, what is hidden is left out.

    Raises:
        ImproperlyConfigured: the extra ``text`` is not installed.
    """
    if find_spec("inscriptis") is None:
        raise ImproperlyConfigured(
            "a text is made of the HTML by the library inscriptis: pip install 'prx_email_django[text]', or give the "
            "template a block “text” or a file “…_body.txt”"
        )
    from inscriptis import get_text
    from inscriptis.model.config import ParserConfig

    text = get_text(html, ParserConfig(display_links=True))
    return "\n".join(_ADDRESS_TWICE.sub(r"\1", line).rstrip() for line in text.splitlines()).strip()


def _without_blank_ends(text: str) -> str:
    """The text from its first line that is not blank; that line stays indented, as the lines of a table are."""
    return _BLANK_LINES.sub("", text.rstrip())


@contextmanager
def _in_language(language: str | None) -> Iterator[None]:
    if language is None:
        yield
    else:
        with override(language):
            yield


def _engines(using: str | None) -> list[DjangoTemplates]:
    given = engines.all() if using is None else [engines[using]]
    found = [engine for engine in given if isinstance(engine, DjangoTemplates)]
    if not found:
        name = "TEMPLATES" if using is None else f"the engine “{using}”"
        raise ImproperlyConfigured(
            f"render_mail needs the template backend “django.template.backends.django.DjangoTemplates”; {name} has none"
        )
    return found


def _found(names: Iterable[str], searched: Iterable[DjangoTemplates]) -> Parts:
    """The parts of the first name that exists.

    Raises:
        TemplateDoesNotExist: none exists.
    """
    missing: dict[str, TemplateDoesNotExist] = {}
    for name in names:
        if (
            parts := _one_file(name, searched, missing)
            if PurePosixPath(name).suffix
            else _files(name, searched, missing)
        ):
            return parts
    raise TemplateDoesNotExist(", ".join(missing) or "no name was given", chain=list(missing.values()))


def _one_file(name: str, searched: Iterable[DjangoTemplates], missing: dict[str, TemplateDoesNotExist]) -> Parts:
    template = _file(name, searched, missing)
    return {} if template is None else {part: (template, part) for part in FILES}


def _files(name: str, searched: Iterable[DjangoTemplates], missing: dict[str, TemplateDoesNotExist]) -> Parts:
    found = {part: _file(f"{name}{end}", searched, missing) for part, end in FILES.items()}
    return {part: (template, "") for part, template in found.items() if template is not None}


def _file(name: str, searched: Iterable[DjangoTemplates], missing: dict[str, TemplateDoesNotExist]) -> Template | None:
    for engine in searched:
        try:
            template: Template = engine.get_template(name).template
        except TemplateDoesNotExist as error:
            missing[name] = error
        else:
            return template
    return None


def _rendered(parts: Parts, part: str, context: Mapping[str, Any] | None, request: HttpRequest | None) -> str:
    if part not in parts:
        return ""
    template, block = parts[part]
    values = make_context(dict(context or {}), request, autoescape=part == "html")
    return _rendered_block(template, block, values) if block else template.render(values)


def _rendered_block(template: Template, name: str, context: Context) -> str:
    """One block as a child or its parents define it; empty where none does.  What stands outside is not run."""
    with context.render_context.push_state(template), context.bind_template(template):
        blocks = BlockContext()
        _collect(template, context, blocks)
        if name not in blocks.blocks:
            return ""
        context.render_context[BLOCK_CONTEXT_KEY] = blocks
        return str(blocks.get_block(name).render(context))


def _collect(template: Template, context: Context, blocks: BlockContext) -> None:
    """Gather the blocks of a template and of those that it extends, children first, as ``{% extends %}`` does."""
    parent = next((node for node in template.nodelist if isinstance(node, ExtendsNode)), None)
    if parent is not None:
        blocks.add_blocks(parent.blocks)
        _collect(parent.get_parent(context), context, blocks)
    else:
        nodes = template.nodelist.get_nodes_by_type(BlockNode)
        blocks.add_blocks({node.name: node for node in nodes if isinstance(node, BlockNode)})


def _nothing(parts: Parts, names: Iterable[str], *wanted: str) -> str:
    """Why these parts are empty, in words."""
    rendered = sorted({template.name or "" for part, (template, _) in parts.items() if part in wanted})
    if any(block for _, block in parts.values()):
        blocks = " or ".join(f"“{part}”" for part in wanted)
        return f"{', '.join(rendered)} has no block {blocks}, or nothing in it"
    files = " or ".join(f"“{name}{FILES[part]}”" for name in names for part in wanted)
    return f"{', '.join(rendered)} rendered nothing" if rendered else f"there is no template {files}"
