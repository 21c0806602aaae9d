"""Every command and every block of code in the documents works: it is run here, in temporary projects."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from prx_email_django.models import Account
from tests.support.document_project import BASE_SETTINGS, Project
from tests.support.documents import PAGES, Block, all_blocks, blocks, code_in, tables

#: Commands that change the machine or the repository; CI runs them.
NOT_HERE = ("pip install", "make ")

MAIN_ACCOUNT = """
import django

django.setup()
from prx_email_django.models import Account

Account.objects.from_preset("fastmail", name="main", user="ann@example.com", password="app-password")
"""


def _runs(block: Block) -> bool:
    return block.is_for_this_django and block.kind in {"python", "sh"} and not block.text.startswith(NOT_HERE)


def _files(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.path and block.is_for_this_django]


RUNNABLE = [page for page in PAGES if any(map(_runs, blocks(page)))]
#: The driver of a database server is an optional dependency.
WITHOUT_DRIVER = find_spec("psycopg") is None


def _can_be_checked(block: Block) -> bool:
    shown = block.kind.startswith("python settings") and block.is_for_this_django
    return shown and not (WITHOUT_DRIVER and "postgresql" in block.text)


SETTINGS = [block for block in all_blocks() if _can_be_checked(block)]
TESTS = [block for block in all_blocks() if block.kind == "python pytest"]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with all tables.  Migrating takes a second, so each page gets a copy of its database."""
    project = Project(tmp_path_factory.mktemp("migrated"))
    ended = project.manage("migrate", "--run-syncdb", "-v0")
    assert ended.returncode == 0, ended.stderr
    return project


@pytest.fixture(scope="session")
def with_account(migrated: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with the account "main", which every page except the README expects."""
    project = Project(tmp_path_factory.mktemp("with_account"), database=migrated)
    project.write("main_account.py", MAIN_ACCOUNT)
    ended = project.run("main_account.py")
    assert ended.returncode == 0, ended.stderr
    return project


def test_the_pages_that_matter_are_run() -> None:
    """A misspelt mark must not take a page out of the run."""
    folders = {
        "start": ("first-mail",),
        "how-to": ("accounts", "dkim", "oauth", "providers", "run-workers", "testing"),
        "reference": ("api", "backend", "providers"),
    }
    wanted = {"README.md", *(f"docs/{folder}/{name}.md" for folder, names in folders.items() for name in names)}
    assert wanted <= set(RUNNABLE) | {block.page for block in TESTS}
    assert len(SETTINGS) > 10


@pytest.mark.parametrize("page", RUNNABLE)
def test_what_a_page_tells_to_type_works(page: str, migrated: Project, with_account: Project, tmp_path: Path) -> None:
    project = Project(tmp_path, _files(page), database=migrated if page == "README.md" else with_account)
    used = [block for block in blocks(page) if block.is_for_this_django]
    outputs = project.run_page([block for block in used if _runs(block)])
    for before, block in zip(used, used[1:], strict=False):
        if block.kind == "text output":
            _assert_output(block, outputs[str(before)])


def _assert_output(block: Block, output: str) -> None:
    pattern = r".*?".join(re.escape(piece) for piece in block.text.strip().split("…"))
    assert re.fullmatch(pattern, output.strip(), re.DOTALL), f"{block} shows\n{block.text}\nbut the output is\n{output}"


def test_the_migration_that_is_shown_makes_its_account(tmp_path: Path) -> None:
    project = Project(tmp_path, _files("docs/how-to/accounts.md"))
    for package in ("shop_mail", "shop_mail/migrations"):
        project.write(f"{package}/__init__.py", "")
    project.write("shown.py", f'{BASE_SETTINGS}\nINSTALLED_APPS.append("shop_mail")\n')
    for _ in range(2):
        ended = project.manage("migrate", "--run-syncdb", "-v0", settings="shown")
        assert ended.returncode == 0, ended.stderr
    again = ("outbox_account", "shop", "--preset", "gmail", "--set", "user=shop@example.com")
    ended = project.manage(*again, "--secret", "env:SHOP_PASSWORD", settings="shown")
    assert ended.stdout == "account “shop”: nothing to change\n", ended.stderr


OF_POST_OFFICE = """
from django.core.management import call_command

call_command("migrate", verbosity=0)
from post_office.models import EmailTemplate

create = EmailTemplate.objects.create
order = create(name="order", subject="Order {{ n }}", content="Your order", html_content="<p>é</p>")
create(name="order", language="ja", default_template=order, subject="注文 {{ n }}", content="本文")
"""

AS_FILES = """
from prx_email_django import render_mail

for names in ("mail/order", ["mail/order_de", "mail/order"], ["mail/order_ja", "mail/order"]):
    mail = render_mail(names, {"n": 7})
    print(mail.subject, mail.body_text, mail.body_html, sep="|")
"""


def test_templates_of_post_office_become_files_that_render_mail_reads(tmp_path: Path) -> None:
    page = "docs/how-to/templates.md"
    (shown,) = [block for block in blocks(page) if "import EmailTemplate" in block.text]
    project = Project(tmp_path)
    project.write("shown.py", f'{BASE_SETTINGS}\nINSTALLED_APPS.append("post_office")\n')
    begin = "import django\n\ndjango.setup()\n"
    project.write("move.py", begin + OF_POST_OFFICE + shown.text + AS_FILES)
    ended = project.run("move.py", settings="shown")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [*["Order 7|Your order|<p>é</p>"] * 2, "注文 7|本文|"]


def test_an_outbox_in_a_database_of_its_own_is_migrated_as_the_page_and_the_command_say(tmp_path: Path) -> None:
    page = "docs/how-to/several-databases.md"
    (settings,) = [block for block in SETTINGS if block.page == page]
    (shown,) = [block for block in blocks(page) if block.language == "sh"]
    _python, _manage, *arguments = shown.text.split()
    project = Project(tmp_path, _files(page))
    project.write("shown.py", f"{BASE_SETTINGS}\n{settings.text}")
    project.manage("migrate", "-v0", settings="shown")
    refused = project.manage("flush_outbox", settings="shown")
    assert f"(run “manage.py {' '.join(arguments)}”)" in refused.stderr
    project.manage(*arguments, "-v0", settings="shown")
    assert project.manage("flush_outbox", settings="shown").stdout.startswith("0 sent")


@pytest.mark.django_db
def test_the_commands_in_the_table_of_providers_make_accounts(settings: Any) -> None:
    settings.PRX_EMAIL = {}
    page = "docs/how-to/providers.md"
    shown = [code for rows in tables(page) for row in rows for code in code_in(row[-1]) if code.startswith("--preset")]
    assert len(shown) == 9
    for number, arguments in enumerate(shown):
        call_command("outbox_account", f"account{number}", *shlex.split(arguments))
        Account.objects.get(name=f"account{number}").full_clean()


@pytest.mark.django_db
def test_sql_that_is_shown_is_taken() -> None:
    """They are for PostgreSQL; elsewhere the test only holds that no other page has one."""
    shown = [block for block in all_blocks() if block.kind == "sql"]
    assert {block.page for block in shown} == {"docs/explanation/scale.md"}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            for block in shown:
                cursor.execute(block.text)


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_that_are_shown_pass_the_checks(block: Block, tmp_path: Path) -> None:
    project = Project(tmp_path, _files(block.page))
    project.write("shown.py", f"{BASE_SETTINGS}\n{block.text}")
    deploy = ("--deploy", "--tag", "prx_email") if "deploy" in block.marks else ()
    # There is no such server here, so the checks that connect to a database are left out.
    selected = ("--tag", "prx_email") if "postgresql" in block.text else ("--database", "default")
    ended = project.manage("check", "--fail-level", "WARNING", *selected, *deploy, settings="shown")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("page", sorted({block.page for block in TESTS}))
def test_tests_that_are_shown_pass(page: str, tmp_path: Path) -> None:
    """One run of pytest for a page; a failure names the line of its block."""
    shown = [block for block in TESTS if block.page == page and block.is_for_this_django]
    project = Project(tmp_path, _files(page))
    for block in shown:
        project.write(f"test_line_{block.line}.py", block.text)
    options = ("-p", "no:cacheprovider", "-p", "no:randomly", "-q", "-rA", f"--rootdir={tmp_path}")
    ended = project.run("-m", "pytest", *options)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert [block for block in shown if f"PASSED test_line_{block.line}.py" not in ended.stdout] == []
