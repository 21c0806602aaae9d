"""The documents agree with the code."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from django.core.management import load_command_class
from django.core.management.base import CommandError
from django.dispatch import Signal

import prx_email_django
from docs.index_words import words_of_pages
from prx_email_django import backends, errors, models, results, signals
from prx_email_django.conf.declared import SMTP_OPTIONS
from prx_email_django.conf.table import SETTINGS, Setting
from prx_email_django.django_mail.backend_options import OPTION_NAMES
from prx_email_django.django_mail.options import MailOptions
from prx_email_django.models.choices import Security
from prx_email_django.models.presets import PRESETS
from prx_email_django.states import TRANSITIONS, ErrorCode, Status
from tests.support.documents import (
    PAGES,
    ROOT,
    Block,
    all_blocks,
    code_in,
    links,
    local_target,
    prose,
    tables,
    text_of,
)
from tests.support.patience import PATIENCE

KINDS = {
    "python",
    "python compile",
    "python settings",
    "python settings deploy",
    "python file",
    "python pytest",
    "html file",
    "{eval-rst}",
    "sh",
    "sh host",
    "text output",
    "mermaid",
    "ini",
    "toml",
    "json",
    "crontab",
    "dockerfile",
    "sql",
}
COMMANDS = {path.stem for path in (ROOT / "prx_email_django/management/commands").glob("[a-z]*.py")}
BLOCKS = all_blocks()
INDEX = "docs/index.md"
TOCTREE = re.compile(r"^:::\{toctree\}\n(.*?)^:::$", re.MULTILINE | re.DOTALL)


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def table_with(page: str, first: str) -> dict[str, list[str]]:
    """The table of a page that has ``first`` in its first column: each name in backticks there -> cells of its row."""
    for rows in tables(page):
        found = {name: row for row in rows for name in code_in(row[0])}
        if first in found:
            return found
    raise AssertionError(f"{page} has no table with {first}")


# Blocks


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_passed_over_by_its_place(page: str) -> None:
    """Also not one in an item of a list."""
    assert len(re.findall(r"^ *```", text_of(page), re.MULTILINE)) == 2 * len([b for b in BLOCKS if b.page == page])


def test_no_block_is_passed_over_by_a_misspelt_mark() -> None:
    assert {str(block): block.kind for block in BLOCKS if block.kind not in KINDS} == {}


def _paragraph_before(block: Block) -> str:
    before = "\n".join(text_of(block.page).splitlines()[: block.line - 1]).rstrip()
    return before.rpartition("\n\n")[2]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.path], ids=str)
def test_a_reader_sees_the_name_of_a_file(block: Block) -> None:
    """What stands behind the fence is not shown."""
    assert f"`{block.path}`" in _paragraph_before(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.versions], ids=str)
def test_a_reader_sees_for_which_django_a_block_is(block: Block) -> None:
    assert re.search(r"Django \d\.\d", _paragraph_before(block) + block.text.partition("\n")[0])


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_shell_parses(block: Block) -> None:
    subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("block", of("json", "toml"), ids=str)
def test_configuration_parses(block: Block) -> None:
    (json.loads if block.language == "json" else tomllib.loads)(block.text)


@pytest.mark.parametrize("block", of("ini"), ids=str)
def test_a_unit_file_is_one(block: Block) -> None:
    unit = configparser.RawConfigParser(strict=True, delimiters=("=",), interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block.text)
    assert unit["Service"]["ExecStart"].startswith("/"), "systemd wants an absolute path"
    if "qcluster" in unit["Service"]["ExecStart"]:
        assert unit["Service"]["KillMode"] == "mixed", "SIGTERM to the whole group hangs django-q2"


@pytest.mark.parametrize("block", of("crontab"), ids=str)
def test_a_crontab_has_five_fields_and_a_command(block: Block) -> None:
    for line in block.text.strip().splitlines():
        fields = line.split(None, 5)
        assert len(fields) == 6
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])


@pytest.mark.parametrize("block", of("dockerfile"), ids=str)
def test_a_dockerfile_hands_signals_to_the_loop(block: Block) -> None:
    lines = dict(line.split(None, 1) for line in block.text.strip().splitlines())
    assert {"FROM", "CMD", "HEALTHCHECK"} <= set(lines)
    assert isinstance(json.loads(lines["CMD"]), list)


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every line that calls a management command: in blocks, in unit files, and in backticks."""
    for block in of("sh", "ini", "crontab", "dockerfile", "text"):
        for line in block.text.splitlines():
            command = " ".join(json.loads(line.split(None, 1)[1])) if line.startswith("CMD [") else line
            if "manage.py " in command:
                arguments = shlex.split(command.partition("manage.py ")[2], comments=True)
                ends = (n for n, argument in enumerate(arguments) if argument in {"||", "|", "&&", ";"})
                yield str(block), arguments[: next(ends, None)]
    for page in PAGES:
        for code in code_in(prose(page)):
            words = shlex.split(code) if code.count('"') % 2 == 0 and "'" not in code else []
            if "manage.py" in words:
                words = words[words.index("manage.py") + 1 :]
            if len(words) > 1 and words[0] in COMMANDS:
                yield page, ["1" if word == "ID" else word for word in words]


def test_every_command_that_is_named_takes_what_it_is_given() -> None:
    seen = set()
    for place, (name, *arguments) in _command_lines():
        if name not in COMMANDS:
            continue
        seen.add(name)
        parser = load_command_class("prx_email_django", name).create_parser("manage.py", name)
        parser.called_from_command_line = False
        try:
            parser.parse_args(arguments)
        except CommandError as error:
            pytest.fail(f"{place}: {name} {shlex.join(arguments)}: {error}")
    assert seen == COMMANDS, "a command that no page shows"


def test_every_command_has_its_line() -> None:
    named = {name for rows in tables("docs/reference/commands.md") for row in rows for name in code_in(row[0])}
    assert named >= COMMANDS


# Links


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in links(page):
        if (found := local_target(page, target)) is not None:
            path, anchor = found
            assert (ROOT / path).exists(), target
            assert not anchor or anchor in _anchors(path), target


def test_the_readme_reads_on_a_package_index() -> None:
    """PyPI shows it without the files beside it."""
    assert [target for target in links("README.md") if not target.startswith("https://")] == []
    assert len(text_of("README.md").splitlines()) <= 200


def _pages_of_the_index() -> set[str]:
    """The pages that the toctrees of the index name."""
    entries = re.findall(r"^([a-z][a-z/*-]+)$", "\n".join(TOCTREE.findall(text_of(INDEX))), re.MULTILINE)
    return {path.relative_to(ROOT).as_posix() for entry in entries for path in (ROOT / "docs").glob(f"{entry}.md")}


def test_every_page_can_be_reached_from_the_index() -> None:
    assert {page for page in PAGES if page.startswith("docs/")} - {INDEX} == _pages_of_the_index()
    assert ("docs/index.md", "") in {local_target("README.md", target) for target in links("README.md")}


#: What newcomers look for -> the page that answers.
LOOKED_FOR = {
    "how-to/local-catcher": ("Mailpit", "Docker Compose"),
    "how-to/providers": ("SES", "sandbox", "Gmail"),
    "how-to/oauth": ("OAuth",),
    "how-to/accounts": ("password",),
    "how-to/coming-from-post-office": ("post_office",),
    "how-to/coming-from-mailer": ("django-mailer",),
    "how-to/celery": ("Celery",),
    "how-to/templates": ("templates", "inline images", "i18n"),
    "how-to/tenants": ("tenants",),
    "how-to/run-workers": ("cron", "systemd", "docker", "kubernetes"),
    "how-to/size-workers": ("how many workers",),
    "how-to/django-q2": ("redis",),
    "how-to/when-something-is-wrong": ("worker dead", "pending", "stuck", "cancel"),
    "how-to/sent-but-not-arrived": ("bounce", "webhook"),
    "how-to/testing": ("test", "pytest"),
    "how-to/gevent-and-uvicorn": ("async", "gevent"),
    "how-to/list-unsubscribe": ("unsubscribe",),
    "how-to/dkim": ("DKIM",),
    "how-to/erase-a-person": ("GDPR", "privacy"),
    "how-to/retention": ("delete",),
    "how-to/staging": ("staging", "backup"),
    "how-to/health-and-alerts": ("metrics", "alert"),
    "how-to/upgrade": ("upgrade",),
    "reference/api": ("attachments", "priority", "schedule"),
    "reference/signals-and-logs": ("logs", "Sentry"),
    "explanation/states": ("retry",),
    "explanation/limits": ("throttle", "rate limit"),
}


def _entries_found(query: str) -> dict[str, float]:
    """Pages that Sphinx's search puts first, by the entries of the index, and how well they match."""
    found: dict[str, float] = {}
    for page, words in words_of_pages(text_of(INDEX)).items():
        for word in map(str.lower, words):
            if query.lower() in word and len(query) >= len(word) / 2:
                found[page] = max(found.get(page, 0), len(query) / len(word))
    return found


@pytest.mark.parametrize(
    ("words", "page"), [(words, page) for page, several in LOOKED_FOR.items() for words in several]
)
def test_a_newcomer_finds_the_page_in_the_index(words: str, page: str) -> None:
    """Two clicks: the words stand in the table of the index, and its link or the first result of the search is it."""
    found = _entries_found(words)
    assert found.get(page) == max(found.values(), default=0)


def test_the_index_leads_to_pages_that_exist() -> None:
    pages = words_of_pages(text_of(INDEX))
    rows = [row for rows in tables(INDEX) for row in rows]
    assert {page for page in pages if not (ROOT / f"docs/{page}.md").exists()} == set()
    assert len(pages) >= len(rows) > 40, "a row is not read"


def test_the_words_become_entries_of_the_site(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the group “docs” is not installed")
    pytest.importorskip("myst_parser", reason="the group “docs” is not installed")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\nextensions = ['myst_parser', 'index_words']\n"
    )
    (tmp_path / "how-to").mkdir()
    (tmp_path / "index.md").write_text(
        "# Index\n\n| for | page |\n| --- | --- |\n| bounce, `a@b` | [Where](how-to/where2.md) |\n\n"
        "```{toctree}\nhow-to/where2\n```\n"
    )
    (tmp_path / "how-to" / "where2.md").write_text("# Where\n\nText.\n")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(tmp_path), str(tmp_path / "built")],
        check=True,
        timeout=PATIENCE,
    )
    index = (tmp_path / "built/searchindex.js").read_text(encoding="utf-8")
    entries = json.loads(index.removeprefix("Search.setIndex(").rstrip().rstrip(";").removesuffix(")"))["indexentries"]
    assert entries == {"bounce": [[0, "index-0", True]], "a@b": [[0, "index-0", True]]}


# Settings


def _settings_table() -> dict[str, list[str]]:
    return {
        name: row
        for rows in tables("docs/reference/settings.md")
        for row in rows
        if len(row) == 4
        for name in code_in(row[0])
    }


def test_the_settings_table_is_the_code() -> None:
    rows = _settings_table()
    assert set(rows) == {setting.name for setting in SETTINGS}
    assert all(unit and effect for _, _, unit, effect in rows.values())


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_the_documented_one(setting: Setting) -> None:
    (default,) = code_in(_settings_table()[setting.name][1])
    assert ast.literal_eval(default) == setting.default


#: Words in capitals that are not settings of this app.
FOREIGN = {"CONN_MAX_AGE"} | {
    "PRX_EMAIL",
    "INSTALLED_APPS",
    "EMAIL_BACKEND",
    "MAILERS",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "ADMINS",
    "EMAIL_USE_LOCALTIME",
    "TIME_ZONE",
}
FOREIGN |= {"USE_TZ", "Q_CLUSTER", "PROVIDER", "PROVIDER_PERMANENT", "ALLOWED_HOSTS", "SECURE_PROXY_SSL_HEADER"}
FOREIGN |= {"DEFAULT_FROM_EMAIL", *SMTP_OPTIONS.values()}

#: Settings and states of packages that the tests do not install.
OF_CELERY = {"CELERY_EMAIL_BACKEND", "CELERY_EMAIL_CHUNK_SIZE", "CELERY_EMAIL_TASK_CONFIG", "CELERY_TASK_ALWAYS_EAGER"}
OF_CELERY |= {"PENDING", "STARTED", "SUCCESS", "RETRY", "FAILURE"}
OF_ANYMAIL = {"ANYMAIL", "SEND_DEFAULTS", "IGNORE_RECIPIENT_STATUS", "IGNORE_UNSUPPORTED_FEATURES", "REQUESTS_TIMEOUT"}
OF_ANYMAIL |= {"DEBUG_API_REQUESTS", "WEBHOOK_SECRET"}


def _capitals(package: str) -> set[str]:
    """The words in capitals in the sources of an installed package."""
    folder = Path(str(find_spec(package).submodule_search_locations[0]))  # type: ignore[union-attr, index]
    texts = (path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    return {word for text in texts for word in re.findall(r"[A-Z][A-Z_]{3,}", text)}


def _known_on(page: str) -> set[str]:
    return {
        "docs/how-to/coming-from-post-office.md": lambda: _capitals("post_office") | {"POST_OFFICE"},
        "docs/how-to/coming-from-mailer.md": lambda: _capitals("mailer"),
        "docs/how-to/coming-from-celery.md": lambda: OF_CELERY,
        "docs/how-to/coming-from-anymail.md": lambda: OF_ANYMAIL,
        "docs/how-to/tenants.md": lambda: {"SHARED_APPS", "TENANT_APPS"},
    }.get(page, set)()


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    known = FOREIGN | {setting.name for setting in SETTINGS}
    named = {(page, code) for page in PAGES for code in code_in(prose(page)) if re.fullmatch(r"[A-Z][A-Z_]{3,}", code)}
    unknown = {(page, code) for page, code in named if code not in known}
    assert {(page, code) for page, code in unknown if code not in _known_on(page)} == set()


def test_every_system_check_is_listed() -> None:
    listed = {
        name for rows in tables("docs/reference/checks.md") for row in rows for name in code_in(row[0]) if "." in name
    }
    written = set()
    for path in (ROOT / "prx_email_django").rglob("*.py"):
        written |= set(re.findall(r"""["'.]([EW]0\d\d)["']""", path.read_text(encoding="utf-8")))
    assert {name.rpartition(".")[2] for name in listed} == written


# States


def test_the_picture_is_the_machine() -> None:
    (block,) = [block for block in of("mermaid") if block.page == "docs/explanation/states.md"]
    drawn = set()
    for before, after in re.findall(r"^\s+(\w+|\[\*\]) --> (\w+|\[\*\])", block.text, re.MULTILINE):
        kinds = {"waiting": "failed", "rest": "failed"}
        drawn.add((kinds.get(before, before), kinds.get(after, after)))
    allowed = {
        (str(source), str(target))
        for transition in TRANSITIONS.values()
        for source, target in transition.moves
        if source != target
    }
    assert {pair for pair in drawn if "[*]" not in pair and pair[0] != pair[1]} == allowed


def test_the_table_of_verbs_is_the_machine() -> None:
    rows = next(rows for rows in tables("docs/explanation/states.md") if rows[0][0] == "enqueue")
    written = {row[0]: (_statuses(row[2]), _statuses(row[3])) for row in rows}
    assert written == {verb: (set(rule.sources), set(rule.targets)) for verb, rule in TRANSITIONS.items()}


def _statuses(cell: str) -> set[Status]:
    return {Status(word.strip()) for word in cell.split(",") if word.strip() in Status.values}


def test_every_reason_is_explained() -> None:
    assert set(table_with("docs/explanation/states.md", "network")) == set(ErrorCode.values)


def test_the_drawing_is_well_formed_and_names_every_status() -> None:
    drawing = ElementTree.parse(ROOT / "docs/explanation/states.svg").getroot()  # noqa: S314  (our own file)
    words = " ".join(text for text in drawing.itertext() if text)
    assert all(status in words for status in Status.values)
    assert "prefers-color-scheme: dark" in words


# Public names


def test_every_public_name_has_its_line() -> None:
    assert set(table_with("docs/reference/api.md", "send")) == set(prx_email_django.__all__)


def test_every_public_function_is_shown_in_use() -> None:
    shown = "\n".join(block.text for block in of("python"))
    functions = {name for name in prx_email_django.__all__ if name[0].islower()}
    awaitable = {"asend", "areply", "aretry_outbox", "adrain"}  # one of the five is shown, which is enough
    assert {name for name in functions - awaitable if f"{name}(" not in shown} == set()


def test_every_error_has_its_codes() -> None:
    documented = {
        row[0].strip("`"): set(code_in(row[1]))
        for rows in tables("docs/reference/api.md")
        for row in rows
        if len(row) == 2
    }
    for error in errors.OutboxError.__subclasses__():
        if error.__module__ == errors.__name__:
            assert documented[error.__name__] == error.codes


def test_every_field_of_a_result_is_documented() -> None:
    text = text_of("docs/reference/api.md")
    for result in (results.SendResult, results.ChangeReport, results.DrainReport):
        for field in result.__dataclass_fields__:
            assert f"`{field}`" in text, field


def test_every_model_for_users_is_listed() -> None:
    inner = {"AccountState", "ConnectionSlot", "Content", "ContentChunk", "Outbox", "OutboxState", "RateWindow"}
    inner.add("RefusedMessage")
    assert set(table_with("docs/reference/api.md", "Account")) == set(models.__all__) - inner


def test_every_signal_is_documented() -> None:
    assert set(table_with("docs/reference/signals-and-logs.md", "message_sent")) == {
        name for name, value in vars(signals).items() if isinstance(value, Signal)
    }


def test_every_option_of_the_backend_is_documented() -> None:
    assert set(table_with("docs/reference/backend.md", "account")) == set(OPTION_NAMES)
    attributes = set(table_with("docs/reference/backend.md", "outbox_tag"))
    assert attributes == {"outbox_account", *(f"outbox_{name}" for name in MailOptions.__dataclass_fields__)}
    for name, row in table_with("docs/reference/backend.md", "outbox_tag").items():
        assert name == "outbox_account" or code_in(row[1]) == [
            "X-" + "-".join(word.title() for word in name.split("_"))
        ]
    assert set(backends.__all__) <= {code.rpartition(".")[2] for code in code_in(text_of("docs/reference/backend.md"))}


def preset_row(name: str) -> list[str]:
    """The row of the table of presets: name, page, server, login, limits that the account gets, and the trap."""
    preset = PRESETS[name]
    security = preset.fields.get("security") or Security.for_port(preset.port).value
    words = {"tls": "TLS", "starttls": "STARTTLS", "none": "clear text"}
    hosts = ", ".join(f"{region}: {host}" for region, host in preset.regions.items())
    server = f"{preset.host.replace('{region}', 'REGION')}:{preset.port}, {words[security]}"
    login = ["no login"] if preset.login_optional else []
    login += [] if preset.oauth_only else ["password"]
    login += ["OAuth"] if preset.oauth_provider else []
    limits = [f"{field} {value}" for field, value in preset.fields.items() if field not in ("security", "user")]
    return [
        f"`{name}`",
        f"[{preset.label}]({preset.page})",
        server + (f" ({hosts})" if hosts else ""),
        " or ".join(login),
        ", ".join(f"`{limit}`" for limit in limits) or "none",
        str(preset.trap),
    ]


def test_the_table_of_presets_is_the_code() -> None:
    assert table_with("docs/reference/providers.md", "gmail") == {name: preset_row(name) for name in PRESETS}


# Guarantees


def _promised_tests() -> list[str]:
    return [code for rows in tables("docs/explanation/guarantees.md") for row in rows for code in code_in(row[2])]


@pytest.mark.parametrize("name", _promised_tests())
def test_a_promise_is_held_by_a_test_that_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse(Path(ROOT, path).read_text(encoding="utf-8"))
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_promise_is_without_a_test() -> None:
    rows = [row for rows in tables("docs/explanation/guarantees.md") for row in rows]
    assert len(rows) > 30
    assert [row[0] for row in rows if not code_in(row[2])] == []
