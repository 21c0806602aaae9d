"""Metrics in the OpenMetrics format, by ``prometheus_client`` (``pip install prx-email-django[metrics]``).

::

    from prx_email_django.contrib.metrics import metrics

    urlpatterns = [path("metrics/outbox/", metrics)]

The figures are those of ``outbox_status``: one reading costs about fifteen statements, so
scrape every 15 s or less often.
A process that has a registry of its own adds ``OutboxCollector()`` to it instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from prx_email_django.models import HourlyCount
from prx_email_django.status.figures import outbox_status
from prx_email_django.status.overview import is_alive, is_hung

#: Figures of each account, and what they mean.
_OF_ACCOUNT = {
    "due": "Messages that may be sent now",
    "deferred": "Failed messages that will be tried again",
    "at_rest": "Failed messages that are never due by themselves",
    "needs_person": "Messages at rest that nobody has cancelled, adopted or dismissed",
    "connections": "Open connections",
    "refused_in_a_row": "Messages refused since the last accepted one",
}
#: Columns of ``HourlyCount`` -> the label ``outcome``.
_OUTCOMES = {"sent": "sent", "failed": "failed", "unknown": "unknown", "refused_recipients": "recipient_refused"}


class OutboxCollector(Collector):
    """Reads the database at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield gauges of the queues, accounts and workers, and a counter of outcomes."""
        figures = outbox_status()
        now = datetime.fromisoformat(figures["at"])
        for name, meaning in _OF_ACCOUNT.items():
            gauge = GaugeMetricFamily(f"outbox_{name}", meaning, labels=["account"])
            for account in figures["accounts"]:
                gauge.add_metric([account["name"]], account[name])
            yield gauge
        oldest = GaugeMetricFamily(
            "outbox_oldest_due_seconds", "How long the oldest due message has waited", labels=["account"]
        )
        paused = GaugeMetricFamily("outbox_account_paused", "1 while a pause is in force", labels=["account", "code"])
        for account in figures["accounts"]:
            oldest.add_metric([account["name"]], account["oldest_due_seconds"] or 0)
            paused.add_metric([account["name"], account["pause_code"]], float(bool(account["pause_code"])))
        yield oldest
        yield paused
        yield GaugeMetricFamily("outbox_paused", "1 while everything is paused", float(bool(figures["paused"])))
        yield GaugeMetricFamily("outbox_sending", "Claimed messages", figures["sending"])
        yield GaugeMetricFamily("outbox_expired_leases", "Messages of lost workers", figures["expired_leases"])
        workers = GaugeMetricFamily("outbox_workers", "Workers seen in the last minute", labels=["kind"])
        alive = [worker["kind"] for worker in figures["workers"] if is_alive(worker, now=now)]
        for kind in sorted(set(alive)):
            workers.add_metric([kind], alive.count(kind))
        yield workers
        hung = sum(map(partial(is_hung, now=now), figures["workers"]))
        yield GaugeMetricFamily("outbox_workers_hung", "Workers that hang or were killed while they worked", hung)
        yield _outcomes()


def _outcomes() -> CounterMetricFamily:
    counter = CounterMetricFamily("outbox_outcomes", "Outcomes since the first one", labels=["account", "outcome"])
    rows = HourlyCount.objects.values_list("account__name")
    for account, *sums in rows.annotate(*(Sum(name) for name in _OUTCOMES)).order_by("account__name"):
        for label, value in zip(_OUTCOMES.values(), sums, strict=True):
            counter.add_metric([account, label], value)
    return counter


@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics.  They name accounts: let only your monitoring reach the address."""
    registry = CollectorRegistry()
    registry.register(OutboxCollector())
    body = generate_latest(registry)  # type: ignore[no-untyped-call]
    return HttpResponse(body, content_type=CONTENT_TYPE_LATEST)
