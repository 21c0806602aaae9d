"""The table of a comparison: medians, spread, ratios; as text, as Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmark.measurement import Result


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the names of the columns, and rows of the same length; the first column names the candidate."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: What the plot shows: a number by the name of its bar, and what the numbers are.
    bars: Mapping[str, float] = field(default_factory=dict)
    unit: str = "messages a second"
    #: Lines below the table.
    notes: Sequence[str] = ()

    def as_text(self) -> str:
        """For a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(self.columns))]
        table = ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *table, *self.notes])

    def as_markdown(self) -> str:
        """For a document."""
        head = [self.columns, [":--", *["--:"] * (len(self.columns) - 1)]]
        table = "\n".join("| " + " | ".join(line) + " |" for line in [*head, *self.rows])
        notes = "".join(f"\n\n{note}" for note in self.notes)
        return f"{table}{notes}"

    def as_svg(self) -> str:
        """A bar for each candidate."""
        import pygal
        from pygal.style import CleanStyle

        style = CleanStyle(background="white", plot_background="white", label_font_size=12, value_font_size=12)
        chart = pygal.HorizontalBar(
            style=style,
            show_legend=False,
            print_values=True,
            print_values_position="top",
            width=760,
            height=60 + 44 * len(self.bars),
            title=self.unit,
            value_formatter=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
            truncate_label=-1,
            js=[],  # no script from elsewhere
            disable_xml_declaration=True,
        )
        # pygal draws the first one at the bottom.
        chart.x_labels = list(reversed(self.bars))
        chart.add("", list(reversed(self.bars.values())))
        return str(chart.render(is_unicode=True)) + "\n"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = line
    return [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]


def table(
    title: str,
    results: Mapping[str, Sequence[Result]],
    *,
    bare: str,
    at_one_round_trip: float = 0.0,
    notes: Sequence[str] = (),
) -> Table:
    """Compare rates with those of ``bare``; with ``at_one_round_trip`` also the round trips of a message.

    That is the rate at which each message takes one round trip of its connection.
    """
    columns = ["", "messages/s", "spread", "of bare", "CPU µs/message", "database µs", "SQL/message"]
    rows: list[list[str]] = []
    reference = median(run.rate for run in results[bare])
    for name, runs in results.items():
        rates = sorted(run.rate for run in runs)
        middle = median(rates)
        cpu = median(run.cpu / run.messages for run in runs) * 1e6
        statements = median(run.statements / run.messages for run in runs)
        row = [name, f"{middle:.1f}", f"{rates[0]:.1f} to {rates[-1]:.1f}", f"{middle / reference:.2f}", f"{cpu:.0f}"]
        database = median(run.database / run.messages for run in runs) * 1e6
        row += [f"{database:.0f}" if database else "", "" if name == bare else f"{statements:.3f}"]
        if at_one_round_trip:
            row.append(f"{at_one_round_trip / middle:.2f}")
        rows.append(row)
    if at_one_round_trip:
        columns.append("round trips/message")
    bars = {name: median(run.rate for run in runs) for name, runs in results.items()}
    return Table(title, columns, rows, bars, notes=notes)
