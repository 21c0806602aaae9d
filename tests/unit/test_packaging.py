"""The built package: it contains all its files and nothing else, with its licence and dependencies."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import prx_email_django
from tests.support.documents import code_in, tables

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def own_files() -> set[str]:
    """Return the files of the package in the checkout, without caches and editor files."""
    files = (path for path in (ROOT / "prx_email_django").rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.suffix not in {".pyc", ".swp", ".orig"}
    }


def canonical(requirement: str) -> str:
    """Return the normalized name of a requirement (PEP 503)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_no_file_of_the_package_is_left_behind(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == own_files()


def test_the_types_and_the_licence_reach_the_user(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert "prx_email_django/py.typed" in wheel.namelist()
    assert metadata["License-Expression"] == "MIT"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert "prx_email_django/locale/ja/LC_MESSAGES/django.mo" in wheel.namelist()


def test_the_version_has_one_value(metadata: Message) -> None:
    assert metadata["Version"] == prx_email_django.__version__ == PROJECT["project"]["version"]


def test_each_dependency_says_what_it_is_for() -> None:
    needed, extras = tables("docs/reference/dependencies.md")
    assert {canonical(*code_in(row[0])) for row in needed} == set(map(canonical, PROJECT["project"]["dependencies"]))
    listed = {code_in(row[0])[0]: code_in(row[1]) for row in extras}
    declared = PROJECT["project"]["optional-dependencies"]
    assert listed == {name: [canonical(line) for line in lines] for name, lines in declared.items()}


def test_no_tool_of_development_is_forced_on_a_user(metadata: Message) -> None:
    groups = PROJECT["dependency-groups"]
    tools = {canonical(entry) for group in groups.values() for entry in group if isinstance(entry, str)}
    required = {canonical(line) for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert required >= {"django", "aiosmtplib", "cryptography", "django-q2", "tqdm"}
    assert required & tools == set()


def test_a_database_driver_comes_only_when_asked_for(metadata: Message) -> None:
    drivers = [line for line in metadata.get_all("Requires-Dist", []) if "psycopg" in line or "mysqlclient" in line]
    assert sorted(line.partition(";")[2].strip() for line in drivers) == ["extra == 'mysql'", "extra == 'postgres'"]


def test_pins_name_versions_and_no_addresses() -> None:
    """A URL in a pin would make every installation depend on one server."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    pin = re.compile(
        r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; python_(full_)?version < \"[\d.]+\"|; python_version >= \"[\d.]+\")?"
    )
    assert [line for line in pins if not pin.fullmatch(line)] == []


def test_every_dependency_is_pinned() -> None:
    """With an unpinned tool the same commit can pass today and fail tomorrow."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonical(line) for line in text.splitlines() if line and not line.startswith("#")}
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]
    needed = {canonical(entry) for entries in lists for entry in entries if isinstance(entry, str)}
    assert needed - pinned == set()
