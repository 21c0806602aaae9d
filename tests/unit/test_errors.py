"""Errors cross processes (a task queue pickles them) and keep their code."""

from __future__ import annotations

import copy
import pickle

import pytest

from prx_email_django import errors

CLASSES = [errors.OutboxError, *errors.OutboxError.__subclasses__()]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_keeps_its_code_in_a_task_queue(kind: type[errors.OutboxError]) -> None:
    raised = kind("text", code="some_code")
    for copied in (pickle.loads(pickle.dumps(raised)), copy.copy(raised), copy.deepcopy(raised)):
        assert (type(copied), str(copied), copied.code) == (kind, "text", "some_code")
