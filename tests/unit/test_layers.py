"""Rules that import-linter cannot check: who may write a status or import a library, and which words are used."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "prx_email_django"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)
#: What a contributor reads beside the package.
AROUND = sorted(
    path for folder in ("tests", "example_project", "scripts") for path in (PACKAGE.parent / folder).rglob("*.py")
)

WRITERS = {"update", "create", "acreate", "aupdate", "get_or_create", "update_or_create", "OutboxMessage"}
RAW_WRITE = re.compile(r"\bupdate\b.*\bset\b.*\bstatus\b|\binsert\s+into\b.*\bstatus\b", re.IGNORECASE | re.DOTALL)

#: Module → the files that may import it.
ONLY_IN = {
    "django.conf.settings": {"conf/reader.py"},
    "aiosmtplib": {"transports/smtp/connection.py"},
    "django_q": {"tasks.py", "apps.py"},
}
#: Beginning of a path → modules that these files must not import.  Pure functions get the time, random numbers and
#: limits as arguments; a transport speaks to a server and never to the database.
FORBIDDEN_IN = {
    "rules/": {"django", "random", "asyncio"},
    "rules/policy.py": {"time"},
    "rules/outcomes.py": {"time"},
    "mime/": {"django.db", "django.conf", "asyncio"},
    "transports/": {"django.db"},
    "rules/recipients.py": {"time"},
    "rules/sent.py": {"time"},
    "transports/smtp/replies.py": {"django", "random", "time", "asyncio"},
    "transports/smtp/reply_rules.py": {"django", "random", "time", "asyncio"},
    "transports/smtp/reply_table.py": {"django", "random", "time", "asyncio"},
}

#: A condition is a value: it asks no database by itself.
VALUES = {"django.db.models.Q"}

#: Words that earlier versions used for things that have a usual name.  Forbidden as a part of any name (``lane_count``,
#: ``OpenLanes``), and for the second set as the whole name of a class only.
OLD_WORDS = {
    "abilities",
    "beside",
    "conversation",
    "garbage",
    "intake",
    "jumping",
    "lane",
    "learned",
    "letter",
    "octet",
    "parcel",
    "seam",
    "telling",
    "told",
    "twin",
}
#: Of these, what names around the package may say: what a person is told, the letters of an alphabet.
USUAL_IN_TESTS = {"beside", "learned", "letter", "told"}
OLD_CLASSES = {"Broken", "Dial", "Flight", "Held", "Job", "Login", "Mailbox", "Over", "Pool", "Wire", "dial"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def texts(node: ast.AST) -> set[object]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}


def writes_status_in_call(node: ast.Call) -> bool:
    name = called(node)
    if name in WRITERS:
        named = any(keyword.arg == "status" for keyword in node.keywords)
        return named or any("status" in texts(k.value) for k in node.keywords if k.arg in {None, "defaults"})
    if name in {"save", "asave"}:
        return any("status" in texts(k.value) for k in node.keywords if k.arg == "update_fields")
    if name in {"setattr", "__setattr__", "bulk_update", "abulk_update"}:
        given = [*node.args, *(k.value for k in node.keywords)]
        return any("status" in texts(argument) for argument in given)
    return False


def status_writes(tree: ast.AST) -> Iterator[int]:
    """Line numbers at which a status is written, in any way that Django or SQL offers."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="status", ctx=ast.Store()):
                yield node.lineno
            case ast.Call() if writes_status_in_call(node):
                yield node.lineno
            case ast.Constant(value=str(text)) if RAW_WRITE.search(text) and "\n\n" not in text:
                yield node.lineno


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module or member that is imported, with its line; imports by name included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(args=[ast.Constant(value=str(text)), *_]) if called(node) in {
                "import_module",
                "import_string",
                "__import__",
            }:
                yield text, node.lineno


def run_at_import(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from run_at_import(child)


def is_within(module: str, root: str) -> bool:
    return module == root or module.startswith(f"{root}.")


def is_try_import(node: ast.AST) -> bool:
    """Whether the node is ``try: import … except ImportError``."""
    if not isinstance(node, ast.Try) or not any(isinstance(child, ast.Import | ast.ImportFrom) for child in node.body):
        return False
    caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
    return "ImportError" in caught or "ModuleNotFoundError" in caught


def account_writes(tree: ast.AST) -> Iterator[int]:
    """Line numbers at which a row of ``Account`` is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = ast.unparse(node.func.value)
            saves = re.search(r"(^|\.)account$", target) and node.func.attr in {"save", "asave", "delete"}
            if saves or (target.startswith("Account.objects") and node.func.attr in {*WRITERS, "bulk_update"}):
                yield node.lineno


def old_names(source: str, *, usual: Collection[str] = (), classes: Collection[str] = OLD_CLASSES) -> set[str]:
    """Names in the code that contain an old word, unless it is ``usual`` there."""
    words = {form for word in OLD_WORDS.difference(usual) for form in (word, f"{word}s")}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    return {
        name
        for name in names
        if name.strip("_") in classes or words & {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    }


def forbidden_imports(path: Path) -> list[str]:
    """Forbidden imports of one file."""
    name = name_of(path)
    forbidden = {root for root, files in ONLY_IN.items() if name not in files}
    forbidden |= {root for place, roots in FORBIDDEN_IN.items() if name.startswith(place) for root in roots}
    return [
        f"{name}:{line} imports {module}"
        for module, line in imports(parse(path))
        if module not in VALUES
        for root in sorted(forbidden)
        if is_within(module, root)
    ]


def test_no_file_but_the_store_writes_a_status() -> None:
    # The rows of django-post_office have a status too.
    allowed = ("store/", "store.py", "contrib/importing/post_office.py")
    outside = [path for path in SOURCES if not name_of(path).startswith(allowed)]
    written = [f"{name_of(path)}:{line}" for path in outside for line in status_writes(parse(path))]
    assert written == []


@pytest.mark.parametrize(
    "code",
    [
        "message.status = 'sent'",
        "message.status, message.error = 'sent', ''",
        "rows.update(status='sent')",
        "rows.update(**{'status': 'sent'})",
        "OutboxMessage(status='sent')",
        "OutboxMessage.objects.create(status='sent')",
        "rows.update_or_create(pk=1, defaults={'status': 'sent'})",
        "message.save(update_fields=['status'])",
        "rows.bulk_update(messages, ['status'])",
        "setattr(message, 'status', 'sent')",
        "cursor.execute('UPDATE outbox SET status = 1')",
    ],
)
def test_a_status_that_is_written_in_an_unusual_way_is_found(code: str) -> None:
    assert list(status_writes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["rows.filter(status='sent')", "SendResult(status=row.status)", "message.save(update_fields=['tag'])"],
)
def test_reading_a_status_is_allowed(code: str) -> None:
    assert not list(status_writes(ast.parse(code)))


def test_a_file_imports_no_library_that_belongs_to_another() -> None:
    assert [found for path in SOURCES for found in forbidden_imports(path)] == []


def test_every_rule_about_files_names_files_that_exist() -> None:
    """A rule about a file that was moved would hold nothing."""
    names = [name_of(path) for path in SOURCES]
    places = {place for files in ONLY_IN.values() for place in files} | set(FORBIDDEN_IN)
    assert [place for place in places if not any(name.startswith(place) for name in names)] == []


def test_no_worker_writes_a_row_that_people_edit() -> None:
    """A worker that saves an account would overwrite what somebody has just changed in the admin."""
    workers = [path for path in SOURCES if name_of(path).startswith(("worker/", "limits/"))]
    assert [f"{name_of(path)}:{line}" for path in workers for line in account_writes(parse(path))] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("account.save()", True),
        ("self.account.save(update_fields=['host'])", True),
        ("Account.objects.filter(pk=1).update(host='x')", True),
        ("Account.objects.filter(pk=1).exists()", False),
        ("AccountState.objects.filter(pk=1).update(paused=True)", False),
    ],
)
def test_a_write_to_an_account_is_found(code: str, found: bool) -> None:
    assert bool(list(account_writes(ast.parse(code)))) is found


def test_an_integration_is_loaded_by_its_name_and_never_tried() -> None:
    """``try: import … except ImportError`` hides a broken installation as a missing one."""
    tried = [f"{name_of(path)}:{n.lineno}" for path in SOURCES for n in ast.walk(parse(path)) if is_try_import(n)]
    assert tried == []


def test_no_name_uses_an_old_word() -> None:
    """Two names for one thing make a reader look for the difference."""
    found = {name_of(path): old_names(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: names for name, names in found.items() if names} == {}


def test_no_name_around_the_package_uses_an_old_word() -> None:
    found = {
        str(path): old_names(path.read_text(encoding="utf-8"), usual=USUAL_IN_TESTS, classes=()) for path in AROUND
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_a_loop_names_its_element() -> None:
    """``for one in rows``: a reader must look up what the rows are."""
    found = [
        f"{path}:{name.lineno}"
        for path in [*SOURCES, *AROUND]
        for node in ast.walk(parse(path))
        if isinstance(node, ast.For | ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name) and name.id in {"one", "it", "thing"}
    ]
    assert found == []


@pytest.mark.parametrize(
    "code", ["class Lane: ...", "open_lanes()", "self._twin = 1", "x: ParcelList", "pool = Pool()"]
)
def test_an_old_word_is_found_in_any_name(code: str) -> None:
    assert old_names(code)


@pytest.mark.parametrize("code", ["plane = 1", "ThreadPoolExecutor()", "split_mailbox(text)", "x = 'the lane'  # lane"])
def test_another_word_text_and_comments_are_allowed(code: str) -> None:
    assert not old_names(code)


@pytest.mark.parametrize("name", sorted(ONLY_IN["django_q"]))
def test_the_package_imports_where_django_q_is_not_installed(name: str) -> None:
    tree = parse(PACKAGE / name)
    found = [module for node in run_at_import(tree) for module, _ in imports(node) if is_within(module, "django_q")]
    assert found == []


def test_an_import_within_a_function_is_not_run_at_import() -> None:
    tree = ast.parse("if x:\n    import django_q\ndef f():\n    import django_q.tasks")
    assert [module for node in run_at_import(tree) for module, _ in imports(node)] == ["django_q"]


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("import django_q.tasks", "django_q.tasks"),
        ("from aiosmtplib import SMTP", "aiosmtplib.SMTP"),
        ("from django.conf import settings", "django.conf.settings"),
        ("def f():\n    from django_q.models import Schedule", "django_q.models.Schedule"),
        ("importlib.import_module('django_q.tasks')", "django_q.tasks"),
    ],
)
def test_an_import_is_found_however_it_is_written(code: str, module: str) -> None:
    assert [found for found, _ in imports(ast.parse(code))] == [module]
