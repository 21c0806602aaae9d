"""CONTRIBUTING.md and the workflow name only what exists: a first patch must not begin with a wrong command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import PAGES, ROOT, code_in, text_of

WORKFLOW = ROOT / ".github/workflows/ci.yml"


def _make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_make_target_that_does_not_exist(page: str) -> None:
    # At the beginning of a line of code or in backticks: prose also "makes" things.
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE))
    assert named <= _make_targets()


def _paths() -> list[str]:
    words = [word for code in code_in(text_of("CONTRIBUTING.md")) for word in code.split()]
    return sorted({word for word in words if re.match(r"(prx_email_django|tests|docs|\.ci)/", word)})


@pytest.mark.parametrize("name", _paths())
def test_a_path_or_test_that_contributing_names_exists(name: str) -> None:
    path, _, test = name.partition("::")
    assert Path(ROOT, path).exists()
    assert not test or f"def {test}(" in Path(ROOT, path).read_text(encoding="utf-8")


def test_the_workflow_runs_what_ci_run_runs_and_installs_nothing_beside_it() -> None:
    """A package that only the workflow installs would be missing on every other machine."""
    runs = re.findall(r"^\s+- run: (.*)$", WORKFLOW.read_text(encoding="utf-8"), re.MULTILINE)
    assert runs == ["bash .ci/run"]


def test_an_audit_that_could_look_up_nothing_fails() -> None:
    """Without ``--strict`` pip-audit reports success where it found no package at all."""
    audit = (ROOT / ".github/workflows/audit.yml").read_text(encoding="utf-8")
    assert "pip-audit --strict " in audit
