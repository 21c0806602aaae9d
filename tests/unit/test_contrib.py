"""The ``django.tasks`` wrapper enqueues one drain and never runs it inside a request."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured

HAS_TASKS = django.VERSION >= (6, 0)
MODULE = "prx_email_django.contrib.django_tasks"
BACKENDS = "django.tasks.backends"

if HAS_TASKS:
    from django.tasks import default_task_backend

    from prx_email_django import tasks
    from prx_email_django.contrib import django_tasks

    @pytest.fixture
    def drains(monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Record one entry for each drain."""
        seen: list[str] = []
        monkeypatch.setattr(tasks, "drain_due", lambda: seen.append("drain") or 3)
        return seen

    def test_a_wake_up_enqueues_one_drain(settings: Any, drains: list[str]) -> None:
        settings.TASKS = {"default": {"BACKEND": f"{BACKENDS}.dummy.DummyBackend"}}
        django_tasks.wake()
        (result,) = default_task_backend.results
        assert result.task.module_path == f"{MODULE}.drain_outbox"
        assert drains == []

    def test_a_wake_up_never_drains_in_a_request(settings: Any, drains: list[str]) -> None:
        settings.TASKS = {"default": {"BACKEND": f"{BACKENDS}.immediate.ImmediateBackend"}}
        with pytest.raises(ImproperlyConfigured, match="worker"):
            django_tasks.wake()
        assert drains == []

    def test_the_task_drains_and_returns_how_many_were_sent(settings: Any, drains: list[str]) -> None:
        settings.TASKS = {"default": {"BACKEND": f"{BACKENDS}.immediate.ImmediateBackend"}}
        assert django_tasks.drain_outbox.enqueue().return_value == 3
        assert drains == ["drain"]

else:

    def test_an_older_django_says_that_it_has_no_tasks() -> None:
        with pytest.raises(ModuleNotFoundError, match=r"django\.tasks"):
            import_module(MODULE)
