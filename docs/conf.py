"""Sphinx configuration of the documents: ``make docs`` builds ``docs/_build``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# autodoc imports the models.
settings.configure(
    SECRET_KEY="documents",
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "prx_email_django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
from django.db.models import Field, Model  # noqa: E402

project = PROJECT["name"]
author = "prx_email_django contributors"
release = version = PROJECT["version"]
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "index_words"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"{project} {release}"
html_theme_options = {
    "source_repository": f"{PROJECT['urls']['Homepage']}/",
    "source_branch": "main",
    "source_directory": "docs/",
}

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# No inventory of another project is downloaded: a build needs no network.  Names of this package must be found.
nitpick_ignore_regex = [("py:.*", r"(?!prx_email_django).*")]

_OUTSIDE = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")


def _link_to_repository(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let a relative link to a file outside ``docs`` lead to the repository: the site does not contain that file."""
    folder = (DOCS / docname).parent

    def replaced(match: re.Match[str]) -> str:
        target = (folder / match["up"] / match["path"]).resolve()
        if target.is_relative_to(DOCS):
            return match[0]
        path = target.relative_to(ROOT).as_posix()
        return f"]({PROJECT['urls']['Homepage']}/blob/main/{path}{match['anchor'] or ''})"

    source[0] = _OUTSIDE.sub(replaced, source[0])


def _list_fields(*event: Any) -> None:
    """Add the columns of a model to its docstring."""
    _app, what, _name, obj, _options, lines = event
    if what == "class" and isinstance(obj, type) and issubclass(obj, Model):
        lines += ["", *(f"* ``{field.name}`` ({_kind(field)})" for field in obj._meta.fields)]


def _kind(field: Field) -> str:
    if field.remote_field:
        return f"a {field.related_model.__name__}"
    return field.get_internal_type().removesuffix("Field") + (", may be None" if field.null else "")


def setup(app: Sphinx) -> None:
    """Connect the handlers; Sphinx calls this."""
    app.connect("autodoc-process-docstring", _list_fields)
    app.connect("source-read", _link_to_repository)
    for name in ("crontab", "mermaid"):  # Pygments has no lexer for them
        app.add_lexer(name, TextLexer)
