"""Bars of sent and failed messages, as numbers for an SVG; the same points are shown as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.utils import formats, timezone
from django.utils.translation import gettext as _

#: Units of the drawing.
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 600, 150, 44, 24, 22
HOURS, DAYS = 24, 30
#: Share of its column that a bar fills.
FILL = 0.8

Sums = Mapping[datetime, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One column: sent below, failed above it."""

    label: str
    #: Written below the axis; empty at most columns.
    tick: str
    sent: int
    failed: int
    x: float
    width: float
    sent_y: float
    sent_height: float
    failed_y: float
    failed_height: float

    @property
    def middle(self) -> float:
        """The middle of the column."""
        return self.x + self.width / 2

    @property
    def title(self) -> str:
        """Shown on hover, and read aloud."""
        words = {"when": self.label, "sent": self.sent, "failed": self.failed}
        return _("%(when)s: %(sent)d sent, %(failed)d failed") % words


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its axis; ``lines`` are heights with their numbers."""

    name: str
    title: str
    bars: Sequence[Bar]
    lines: Sequence[tuple[float, int]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    base: int = HEIGHT - BOTTOM

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(bar.sent or bar.failed for bar in self.bars)


def by_hour(sums: Sums, *, now: datetime) -> Chart:
    """The last 24 hours and the present one, in the active time zone."""
    present = now.replace(minute=0, second=0, microsecond=0)
    hours = [present - timedelta(hours=back) for back in range(HOURS, -1, -1)]
    points = []
    for number, hour in enumerate(hours):
        local = timezone.localtime(hour)
        tick = local.strftime("%H:%M") if number % 6 == 0 else ""
        points.append(
            (formats.date_format(local, "SHORT_DATE_FORMAT") + local.strftime(" %H:%M"), tick, sums.get(hour))
        )
    return _chart("hours", _("Messages per hour, last 24 hours"), points)


def by_day(sums: Sums, *, now: datetime) -> Chart:
    """The last 30 days with today, in the active time zone."""
    days: dict[date, list[int]] = {}
    today = timezone.localtime(now).date()
    for back in range(DAYS - 1, -1, -1):
        days[today - timedelta(days=back)] = [0, 0]
    for hour, (sent, failed) in sums.items():
        if (day := timezone.localtime(hour).date()) in days:
            days[day][0] += sent
            days[day][1] += failed
    points = []
    for number, (day, (sent, failed)) in enumerate(days.items()):
        tick = day.strftime("%m-%d") if number % 7 == 1 else ""
        points.append((formats.date_format(day, "SHORT_DATE_FORMAT"), tick, (sent, failed)))
    return _chart("days", _("Messages per day, last 30 days"), points)


def _chart(name: str, title: str, points: Sequence[tuple[str, str, tuple[int, int] | None]]) -> Chart:
    highest = _round_up(max((sum(counts) for *_, counts in points if counts), default=0))
    base = HEIGHT - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / len(points)
    scale = (base - 10) / highest
    bars = []
    for number, (label, tick, counts) in enumerate(points):
        sent, failed = counts or (0, 0)
        sent_height, failed_height = round(sent * scale, 1), round(failed * scale, 1)
        bars.append(
            Bar(
                label,
                tick,
                sent,
                failed,
                x=round(LEFT + number * step + step * (1 - FILL) / 2, 1),
                width=round(step * FILL, 1),
                sent_y=round(base - sent_height, 1),
                sent_height=sent_height,
                failed_y=round(base - sent_height - failed_height, 1),
                failed_height=failed_height,
            )
        )
    lines = [(round(base - value * scale, 1), value) for value in (0, highest // 2, highest)]
    return Chart(name, title, bars, lines)


def _round_up(value: int) -> int:
    """The next of 2, 4, 10, 20, 40, 100, … that is not smaller."""
    limit = 1
    while True:
        for factor in (2, 4, 10):
            if value <= factor * limit:
                return factor * limit
        limit *= 10
