"""What the documents tell a reader to type is typed here, in a throw-away project."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.document_project import BASE_SETTINGS, Project
from tests.support.documents import PAGES, Block, all_blocks, blocks

#: What a reader does to the machine or to the repository: CI does it, or the reader.
NOT_HERE = ("pip install", "make ")


def _runs(block: Block) -> bool:
    return block.is_for_this_django and block.kind in {"python", "sh"} and not block.text.startswith(NOT_HERE)


def _files(page: str) -> list[Block]:
    return [one for one in blocks(page) if one.path and one.is_for_this_django]


RUNNABLE = [page for page in PAGES if any(map(_runs, blocks(page)))]
#: The driver of a database server comes only when asked for.
WITHOUT_DRIVER = find_spec("psycopg") is None


def _can_be_checked(block: Block) -> bool:
    shown = block.kind.startswith("python settings") and block.is_for_this_django
    return shown and not (WITHOUT_DRIVER and "postgresql" in block.text)


SETTINGS = [one for one in all_blocks() if _can_be_checked(one)]
TESTS = [one for one in all_blocks() if one.kind == "python pytest"]


def test_the_pages_that_matter_are_run() -> None:
    """A mark that is misspelt must not take a page out of the run."""
    wanted = {"README.md", *(f"docs/{one}.md" for one in ("accounts", "api", "backend", "operations", "testing"))}
    assert wanted <= set(RUNNABLE) | {one.page for one in TESTS}
    assert len(SETTINGS) > 10


@pytest.mark.parametrize("page", RUNNABLE)
def test_what_a_page_tells_to_type_works(page: str, tmp_path: Path) -> None:
    project = Project(tmp_path, _files(page))
    migrated = project.manage("migrate", "--run-syncdb", "-v0")
    assert migrated.returncode == 0, migrated.stderr
    if page != "README.md":
        project.write("main_account.py", MAIN_ACCOUNT)
        assert project.run("main_account.py").returncode == 0
    used = [one for one in blocks(page) if one.is_for_this_django]
    said = project.run_page([one for one in used if _runs(one)])
    for before, block in zip(used, used[1:], strict=False):
        if block.kind == "text output":
            _assert_said(block, said[str(before)])


MAIN_ACCOUNT = """
import django

django.setup()
from prx_email_django.models import Account

Account.objects.from_preset("fastmail", name="main", user="ann@example.com", password="app-password")
"""


def _assert_said(block: Block, said: str) -> None:
    pattern = r".*?".join(re.escape(piece) for piece in block.text.strip().split("…"))
    assert re.fullmatch(pattern, said.strip(), re.DOTALL), f"{block} shows\n{block.text}\nbut what came is\n{said}"


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_that_are_shown_pass_the_checks(block: Block, tmp_path: Path) -> None:
    project = Project(tmp_path, _files(block.page))
    project.write("shown.py", f"{BASE_SETTINGS}\n{block.text}")
    deploy = ("--deploy", "--tag", "prx_email") if "deploy" in block.marks else ()
    # A server that the page names is not there; its settings are judged all the same.
    asked = ("--tag", "prx_email") if "postgresql" in block.text else ("--database", "default")
    ended = project.manage("check", "--fail-level", "WARNING", *asked, *deploy, settings="shown")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_tests_that_are_shown_pass(block: Block, tmp_path: Path) -> None:
    project = Project(tmp_path, _files(block.page))
    project.write("test_shown.py", block.text)
    options = ("-p", "no:cacheprovider", "-p", "no:randomly", "-q", f"--rootdir={tmp_path}")
    ended = project.run("-m", "pytest", *options, "test_shown.py")
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
