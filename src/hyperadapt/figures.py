"""Pictures as SVG text, for files and reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by people with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^D"
Line = list[tuple[int, float, float | None]]  # size, mean, deviation
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "hyperadapt",  # the same picture gives the same file
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, StringIO]]:
    """Begin a figure, in inches, that no window shows; when it is drawn it is written into the text as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure, svg = Figure(figsize=(width, height), layout="constrained"), StringIO()
        yield figure, svg
        figure.savefig(svg, format="svg", metadata={"Date": None})


def scores_by_variant(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw a comparison's scores, mean and deviation, a group a task with the average last.

    Args:
        rows: as `comparison.table_rows` makes them.
    """
    names = dict.fromkeys(name for row in rows for name in row if isinstance(row[name], tuple))
    tasks = [name for name in names if name not in ("average", "validation")]
    tasks += ["average"] if "average" in names else []
    with drawing(1.6 + 0.9 * len(tasks), 3.4) as (figure, svg):
        axes = figure.add_subplot()
        width = 0.8 / len(rows)
        *colours, grey = COLOURS
        scored = {task: [number for number, row in enumerate(rows) if task in row] for task in tasks}
        for number, row in enumerate(rows):
            points = [
                (index + (numbers.index(number) - (len(numbers) - 1) / 2) * width, *row[task])
                for index, (task, numbers) in enumerate(scored.items())
                if number in numbers
            ]
            again, colour = divmod(number - 1, len(colours))
            axes.errorbar(
                [place for place, _, _ in points],
                [mean for _, mean, _ in points],
                [deviation or 0.0 for _, _, deviation in points],
                fmt=MARKERS[again % len(MARKERS)] if number else "o",
                markersize=4,
                capsize=2,
                color=colours[colour] if number else grey,  # the first row is the majority's
                label=row["variant"],
            )
        if tasks[-1] == "average":
            axes.axvspan(len(tasks) - 1.5, len(tasks) - 0.5, color="#f5f5f5", zorder=0)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylabel("score")
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside upper center", ncols=min(len(rows), 4))
    return svg.getvalue()


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], y_label: str) -> str:
    """Draw lines over the steps; one of the name "average" is drawn heavily.

    Args:
        lines: name -> (steps, values).
        y_label: what the values are.
    """
    with drawing(6.4, 3.0) as (figure, svg):
        axes = figure.add_subplot()
        for number, (name, (steps, values)) in enumerate(lines.items()):
            main = name == "average" or len(lines) == 1
            colour = "#222222" if name == "average" else COLOURS[number % len(COLOURS)]
            axes.plot(steps, values, color=colour, linewidth=2.2 if main else 1.1, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        if len(lines) > 1:
            figure.legend(loc="outside right upper")
    return svg.getvalue()


def scores_by_size(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> str:
    """Draw lines over sizes, on a logarithmic axis, with deviations.

    Args:
        lines: name -> (size, mean, deviation or None), by size.
        x_label, y_label: what they are.
        log_y: whether the other axis is logarithmic too.
    """
    from matplotlib.ticker import LogLocator

    with drawing(5.4, 3.2) as (figure, svg):
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(lines.items()):
            sizes, means, deviations = zip(*points, strict=True)
            known = any(deviation is not None for deviation in deviations)
            axes.errorbar(
                sizes,
                means,
                [deviation or 0.0 for deviation in deviations] if known else None,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                capsize=2,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
        axes.set_xscale("log")
        ticks = sorted({size for points in lines.values() for size, _, _ in points})
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="outside upper center", ncols=2)
    return svg.getvalue()


def embedding_map(names: Sequence[str], points: Sequence[Sequence[float]], explained: Sequence[float]) -> str:
    """Draw points with their names on two principal components.

    Args:
        names: of the points.
        points: (points, 2).
        explained: the components' shares of the variance.
    """
    with drawing(5.4, 4.0) as (figure, svg):
        axes = figure.add_subplot()
        for number, (name, (x, y)) in enumerate(zip(names, points, strict=True)):
            axes.scatter([x], [y], color=COLOURS[number % len(COLOURS)], s=40)
            axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points")
        axes.margins(0.2)
        axes.set_xlabel(f"first component ({100 * explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second ({100 * explained[1]:.0f} %)")
    return svg.getvalue()


def point_map(points: Any, groups: Sequence[str], labels: Sequence[str]) -> str:
    """Draw many points, coloured by their group; of more groups than colours the rarest share one.

    Args:
        points: (points, 2).
        groups: of each point.
        labels: of the two axes, empty where they mean nothing.
    """
    from collections import Counter

    counts = Counter(groups)
    own = len(COLOURS) if len(counts) <= len(COLOURS) else len(COLOURS) - 1
    common = [name for name, _ in counts.most_common(own)]
    named = [name if name in common else "other" for name in groups]
    with drawing(6.4, 4.0) as (figure, svg):
        figure.dpi = 150
        axes = figure.add_subplot()
        for number, name in enumerate([*sorted(common), *(["other"] if "other" in named else [])]):
            at = [place for place, group in zip(points, named, strict=True) if group == name]
            x, y = zip(*at, strict=True)
            shown = name.replace("$", r"\$") or "(empty)"
            # As pixels: thousands of points as SVG would be megabytes.
            axes.scatter(x, y, s=7, linewidths=0, color=COLOURS[number], label=shown, rasterized=True)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if not any(labels):
            axes.set_xticks([])
            axes.set_yticks([])
        figure.legend(loc="outside right upper", markerscale=2)
    return svg.getvalue()
