"""The Japanese catalogue is complete: every string that is marked has a translation, with the same placeholders."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as translated
from django.utils.translation import override
from django.utils.translation.template import templatize

from prx_email_django.checks.declared import check_declared_accounts
from prx_email_django.checks.project import check_settings
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.table import SETTINGS
from prx_email_django.status.overview import span

PACKAGE = Path(__file__).parents[2] / "prx_email_django"
FOLDER = PACKAGE / "locale/ja/LC_MESSAGES"
#: Functions that mark a string, and how many of their arguments are strings.
MARKS = {"_": 1, "gettext": 1, "gettext_lazy": 1, "gettext_noop": 1, "ngettext": 2, "ngettext_lazy": 2}
#: What commands and checks show to a person comes from these files, and what settings and sign-ins are refused for.
FACES = [
    *(p for folder in ("checks", "conf", "management", "oauth") for p in sorted((PACKAGE / folder).rglob("*.py"))),
    *(PACKAGE / name for name in ("api/sign_in.py", "models/declared.py", "status/facts.py", "status/figures.py")),
]
#: Names, protocols, and an error of the code that no page shows.
NOT_PROSE = re.compile(
    r"content types|dotted paths?| secret in settings|text/html; .*|(https://\S+ )?(offline_access|openid)( \w+)*"
    r"|https://\S+ offline_access|unknown error|nobody with an address|\[\"MESSAGE_ID_DOMAIN\"\] must be .*"
)
#: Two words in a row; a name, a code or a key of JSON has none.
_PROSE = re.compile(r"[A-Za-z’”]{2,}[,:;.]? [A-Za-z“]{2,}")
#: Calls whose strings nobody reads, or that machines do: patterns, SQL, log lines, errors that ``advice`` recognises.
_NOT_SHOWN = re.compile(r"re\.compile|.*\.execute|_row|logger\..*|sign_in\.refused")
_IN_TEMPLATE = re.compile(r"\b(_|gettext|ngettext)\((u?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\").*?)\) ", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]")


def marked_in_python(path: Path) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if isinstance(node, ast.Call) and name in MARKS:
            texts = [text.value for text in node.args[: MARKS[name]] if isinstance(text, ast.Constant)]
            if texts and all(isinstance(text, str) for text in texts):
                yield tuple(str(text) for text in texts)


def marked_in_template(path: Path) -> Iterator[tuple[str, ...]]:
    for name, arguments in _IN_TEMPLATE.findall(templatize(path.read_text(encoding="utf-8"), origin=str(path))):
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call)
        yield tuple(ast.literal_eval(argument) for argument in call.args[: MARKS[name]])


def is_prose(text: str) -> bool:
    return bool(_PROSE.search(text)) and not NOT_PROSE.fullmatch(text)


def unmarked(tree: ast.AST) -> Iterator[str]:
    """Yield the sentences that no function marks; documentation is not shown."""
    if isinstance(tree, ast.Call):
        function = ast.unparse(tree.func)
        if function in MARKS or _NOT_SHOWN.fullmatch(function):
            return
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str) and is_prose(tree.value):
        yield tree.value
    for part in ast.iter_child_nodes(tree):
        yield from unmarked(part)


@cache
def marked() -> set[tuple[str, ...]]:
    found = {
        texts for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts for texts in marked_in_python(path)
    }
    return found | {texts for path in PACKAGE.rglob("*.html") for texts in marked_in_template(path)}


@pytest.fixture(scope="module")
def catalogue() -> dict[str, str]:
    """msgid -> translation, as Django reads them; Japanese has one form for any number."""
    with (FOLDER / "django.mo").open("rb") as file:
        entries = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {key if isinstance(key, str) else key[0]: text for key, text in entries.items()}


def test_strings_are_found_in_code_and_templates() -> None:
    found = marked()
    assert ("Retry now",) in found
    assert ("%(count)d account is paused.", "%(count)d accounts are paused.") in found
    assert ("Why it fails",) in found
    assert ("%(count)s message matches.", "%(count)s messages match.") in found
    assert len(found) > 600


def test_every_sentence_of_commands_and_checks_is_marked() -> None:
    found = {path.name: list(unmarked(ast.parse(path.read_text(encoding="utf-8")))) for path in FACES}
    assert {name: texts for name, texts in found.items() if texts} == {}
    assert list(unmarked(ast.parse('print(f"{count} messages wait", _("Not these."))'))) == [" messages wait"]


def test_no_marked_string_is_missing(catalogue: dict[str, str]) -> None:
    assert [texts for texts in sorted(marked()) if not catalogue.get(texts[0])] == []


def test_no_translation_is_left_over(catalogue: dict[str, str]) -> None:
    assert set(catalogue) - {texts[0] for texts in marked()} - {""} == set()


def test_placeholders_are_the_same(catalogue: dict[str, str]) -> None:
    wrong = [
        texts
        for texts in marked()
        if set(_PLACEHOLDER.findall(catalogue.get(texts[0], "")))
        not in [set(_PLACEHOLDER.findall(text)) for text in texts]
    ]
    assert wrong == []


def test_the_compiled_catalogue_is_that_of_its_source(catalogue: dict[str, str]) -> None:
    """``make messages`` writes both."""
    quoted = re.findall(
        r'^msgstr(?:\[0\])? ((?:"(?:[^"\\]|\\.)*"\n)+)', (FOLDER / "django.po").read_text("utf-8"), re.M
    )
    source = sorted("".join(ast.literal_eval(line) for line in text.splitlines()) for text in quoted[1:])
    assert source == sorted(text for key, text in catalogue.items() if key)


#: Beyond ASCII: a sentence in Japanese has such a character, whatever names it quotes.
JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
WRONG: list[dict[str, Any]] = [
    *({setting.name: object()} for setting in SETTINGS),
    {"NO_SUCH_SETTING": 1},
    {"LEAS": 30},
    {"LEASE": 1},
    {"SEND_DEADLINE": 400},
    {"GIVE_UP_AFTER": 10, "MAX_BACKOFF": 20},
    {"BASE_BACKOFF": 30, "MAX_BACKOFF": 20},
    {"WAKE": "no.such.function"},
    {"MESSAGE_ID_DOMAIN": "tests.no_such"},
    {"ATTACHMENT_STORE": "/no/such/folder", "TLS_CA_FILE": "/no/such/file"},
    {"RETENTION": {"sent": "soon"}},
    {"RETENTION": {"snt": "1d"}},
    {"REDIRECT_TO": "me@no domain"},
    {"REDIRECT_EXCEPT": ["example.com"]},
    {"OAUTH_SERVERS": {"http://sso.example.com": {"authorization": "x", "issuer": "y"}}},
    {"CREDENTIAL_KEYS": ["short"]},
    {"ACCOUNTS": {"main": 1}},
    {"ACCOUNTS": {"main": "http://example.com"}},
    {"ACCOUNTS": {"main": "smtps://"}},
    {"ACCOUNTS": {"main": {"host": "smtp.example.com", "hots": "x", "password": None}}},
    {"ACCOUNTS": {"main": {"preset": "gmial"}}},
    {"ACCOUNTS": {"main": "smtp://user:x@smtp.example.com?rate_limits=many"}},
    {"ACCOUNTS": {"main": "smtp://user:env:@smtp.example.com"}},
]


@pytest.mark.parametrize("configured", WRONG, ids=" ".join)
def test_every_problem_of_the_settings_is_told_in_japanese(configured: dict[str, Any], settings: Any) -> None:
    settings.PRX_EMAIL = configured
    with override("ja"):
        found = [*check_settings(), *check_declared_accounts()]
    assert found
    for message in found:
        assert JAPANESE.search(str(message.msg)), message.msg
        assert JAPANESE.search(str(message.hint)), message.hint


def test_what_is_raised_stays_english(settings: Any) -> None:
    settings.PRX_EMAIL = {"LEASE": "soon"}
    with override("ja"), pytest.raises(ImproperlyConfigured, match=r'"LEASE"\] must be a duration'):
        outbox_settings()


def test_django_finds_the_catalogue() -> None:
    with override("ja"):
        assert translated("Retry now") == "今すぐ再試行"
        assert span(48 * 60) == "48 分"
