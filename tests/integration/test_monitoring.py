"""The views for machines: health and metrics."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import prx_email_django as prx
from prx_email_django.contrib.health import health
from prx_email_django.contrib.metrics import metrics
from prx_email_django.models import OutboxMessage, OutboxState
from tests.support.documents import blocks
from tests.support.factories import MEMORY, account, backlog

pytestmark = pytest.mark.django_db

REQUEST = RequestFactory().get("/")
#: What the health view says besides the status.
KEYS = ("oldest_due_seconds", "oldest_expired_lease_seconds", "worker_seen_seconds")


def answer(**options: Any) -> tuple[int, dict[str, Any]]:
    response = health(REQUEST, **options)
    return response.status_code, json.loads(response.content)


def test_the_urls_that_are_shown_answer(settings: Any, client: Client) -> None:
    (shown,) = [block for block in blocks("docs/how-to/health-and-alerts.md") if block.language == "python"]
    settings.ROOT_URLCONF = urls = ModuleType("urls_that_are_shown")
    exec(compile(shown.text, str(shown), "exec"), vars(urls))
    account()
    assert client.get("/health/outbox/").json()["status"] == "ok"
    assert b"outbox_due" in client.get("/metrics/outbox/").content


def test_health_is_well_late_or_broken(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "INSTANCE": "here"}
    owner = account()
    assert answer() == (200, {"status": "ok", **dict.fromkeys(KEYS)})
    backlog(owner, 1)
    prx.drain()
    code, found = answer()
    assert (code, found["status"], found["oldest_due_seconds"]) == (200, "ok", None)
    assert found["worker_seen_seconds"] < 60
    (row,) = backlog(owner, 1)
    OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=timezone.now() - timedelta(minutes=20))
    code, found = answer()
    assert (code, found["status"]) == (503, "late")
    assert 1200 <= found["oldest_due_seconds"] < 1260
    assert answer(max_age="30m")[0] == 200
    OutboxState.objects.update(instance="elsewhere")
    assert answer()[1]["status"] == "broken"


def test_health_costs_three_statements(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    backlog(account(), 1)
    prx.drain()
    with CaptureQueriesContext(connection) as statements:
        health(REQUEST)
    assert len(statements) <= 3


def test_metrics_are_read_by_a_parser_of_openmetrics(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner, other = account("shop"), account("bulk")
    backlog(owner, 3)
    prx.drain()
    backlog(other, 2)
    prx.pause_outbox(other, reason="x")
    response = metrics(REQUEST)
    assert response["Content-Type"].startswith("application/openmetrics-text")
    families = text_string_to_metric_families(response.content.decode())
    samples = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    assert samples["outbox_due", "bulk"] == 2
    assert samples["outbox_outcomes_total", "shop", "sent"] == 3
    assert samples["outbox_account_paused", "bulk", "person"] == 1
    assert samples["outbox_account_paused", "shop", ""] == 0
    assert samples["outbox_workers", "drain"] == 1


def test_the_alerts_in_the_documents_name_metrics_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/health-and-alerts.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\boutbox_[a-z_]+", page.partition("| alert if |")[2].partition("\n\n")[0]))
    account()
    shown = metrics(REQUEST).content.decode()
    assert {name for name in named if f"# TYPE {name.removesuffix('_total')} " not in shown} == set()
    assert len(named) >= 5
