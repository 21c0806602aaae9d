"""Rules of the house that import-linter cannot say: who may write a status, who may know which library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "prx_email_django"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)

WRITERS = {"update", "create", "acreate", "aupdate", "get_or_create", "update_or_create", "OutboxMessage"}
RAW_WRITE = re.compile(r"\bupdate\b.*\bset\b.*\bstatus\b|\binsert\s+into\b.*\bstatus\b", re.IGNORECASE | re.DOTALL)

#: Module → the files that may import it.
ONLY_IN = {
    "django.conf.settings": {"conf/reader.py"},
    "aiosmtplib": {"transports/smtp/connection.py"},
    "django_q": {"tasks.py", "apps.py"},
}
#: What a pure file must not know: it is handed its clock, its randomness and its limits.
PURE = {
    "rules/policy.py": {"django.db", "django.conf", "django.apps", "django.utils.timezone", "random", "time"},
    "rules/recipients.py": {"django.db", "django.conf", "django.apps", "django.utils.timezone", "random", "time"},
    "rules/sent.py": {"django.db", "django.conf", "django.apps", "django.utils.timezone", "random", "time"},
    "rules/outcomes.py": {"django", "random", "time"},
    "transports/smtp/replies.py": {"django", "random", "time"},
    "transports/smtp/reply_rules.py": {"django", "random", "time"},
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


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
    """Line numbers at which a status is written, by whatever door."""
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


def offences(path: Path) -> list[str]:
    """Forbidden imports of one file."""
    name = name_of(path)
    forbidden = {root for root, files in ONLY_IN.items() if name not in files} | PURE.get(name, set())
    return [
        f"{name}:{line} imports {module}"
        for module, line in imports(parse(path))
        for root in sorted(forbidden)
        if is_within(module, root)
    ]


def test_no_file_but_the_store_writes_a_status() -> None:
    outside = [path for path in SOURCES if not name_of(path).startswith(("store/", "store.py"))]
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
def test_a_status_written_by_a_side_door_is_found(code: str) -> None:
    assert list(status_writes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["rows.filter(status='sent')", "SendResult(status=row.status)", "message.save(update_fields=['tag'])"],
)
def test_reading_a_status_is_no_offence(code: str) -> None:
    assert not list(status_writes(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_library_stays_in_its_room(path: Path) -> None:
    assert offences(path) == []


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
