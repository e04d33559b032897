"""Pictures as SVG text, for files and reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import count, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by people with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^D"
ANGLES = (20, 160, -20, -160, 90, -90, 55, 125, -55, -125)  # where a name is tried beside its point
LINE_STYLES = ("-", "--", ":", "-.")  # of more lines than colours
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
    "text.parse_math": False,  # a "$" in a name is a dollar
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, StringIO]]:
    """Begin a figure, in inches, that no window shows; when it is drawn it is written into the text as SVG.

    Legends are given what they name: by labels alone, they would leave out names that begin with "_".
    """
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
        drawn: list[Any] = []
        scored = {task: [number for number, row in enumerate(rows) if task in row] for task in tasks}
        for number, row in enumerate(rows):
            points = [
                (index + (numbers.index(number) - (len(numbers) - 1) / 2) * width, *row[task])
                for index, (task, numbers) in enumerate(scored.items())
                if number in numbers
            ]
            again, colour = divmod(number - 1, len(colours))
            bars = axes.errorbar(
                [place for place, _, _ in points],
                [mean for _, mean, _ in points],
                [deviation or 0.0 for _, _, deviation in points],
                fmt=MARKERS[again % len(MARKERS)] if number else "o",
                markersize=4,
                capsize=2,
                color=colours[colour] if number else grey,  # the first row is the majority's
            )
            drawn.append(bars)
        if tasks[-1] == "average":
            axes.axvspan(len(tasks) - 1.5, len(tasks) - 0.5, color="#f5f5f5", zorder=0)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylabel("score")
        axes.grid(axis="x", visible=False)
        variants = [row["variant"] for row in rows]
        figure.legend(drawn, variants, loc="outside upper center", ncols=min(len(rows), 4))
    return svg.getvalue()


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], y_label: str) -> str:
    """Draw lines over the steps; one of the name "average" is drawn heavily.

    Args:
        lines: name -> (steps, values).
        y_label: what the values are.
    """
    with drawing(6.4, max(3.0, 0.6 + 0.18 * len(lines))) as (figure, svg):
        axes = figure.add_subplot()
        for number, (name, (steps, values)) in enumerate(lines.items()):
            main = name == "average" or len(lines) == 1
            colour = "#222222" if name == "average" else COLOURS[number % len(COLOURS)]
            # A line through one point would be nothing.
            point = "D" if name == "average" else "o"
            style = point if len(steps) == 1 else LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]
            width = 2.2 if main else 1.1
            axes.plot(steps, values, style, color=colour, linewidth=width)
        if len({step for steps, _ in lines.values() for step in steps}) == 1:
            axes.set_xticks(next(steps for steps, _ in lines.values() if steps))
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        if len(lines) > 1:
            figure.legend(axes.lines, list(lines), loc="outside right upper")
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
        drawn: list[Any] = []
        for number, points in enumerate(lines.values()):
            sizes, means, deviations = zip(*points, strict=True)
            known = any(deviation is not None for deviation in deviations)
            bars = axes.errorbar(
                sizes,
                means,
                [deviation or 0.0 for deviation in deviations] if known else None,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                capsize=2,
                color=COLOURS[number % len(COLOURS)],
            )
            drawn.append(bars)
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
        figure.legend(drawn, list(lines), loc="outside upper center", ncols=2)
    return svg.getvalue()


def embedding_map(names: Sequence[str], points: Sequence[Sequence[float]], explained: Sequence[float]) -> str:
    """Draw points with their names on two principal components; a name that has no room beside its point is led to it.

    Args:
        names: of the points.
        points: (points, 2).
        explained: the components' shares of the variance.
    """
    from textwrap import fill

    shown = [fill(name, 24) for name in names]
    for size in count(1):  # the picture grows until all names have room
        with drawing(5.4 * 1.2 ** (size - 1), 4.0 * 1.2 ** (size - 1)) as (figure, svg):
            axes = figure.add_subplot()
            for number, (x, y) in enumerate(points):
                axes.scatter([x], [y], color=COLOURS[number % len(COLOURS)], s=40)
            axes.margins(0.2)
            axes.set_xlabel(f"first component ({100 * explained[0]:.0f} % of the variance)")
            axes.set_ylabel(f"second ({100 * explained[1]:.0f} %)")
            complete = write_beside(axes, shown, points)
        if complete:
            break
    return svg.getvalue()


def write_beside(axes: Axes, names: Sequence[str], points: Sequence[Sequence[float]]) -> bool:
    """Write names beside their points, or near them with a line, so that none covers a name, a point or the frame.

    Each takes the nearest free place, those first whose points have the nearest neighbours.

    Returns:
        Whether all have room.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # the layout is found
    figure.set_layout_engine("none")
    axes.autoscale(False)
    pixels = figure.dpi / 72  # a point of type
    places = axes.transData.transform(np.asarray(points, dtype=float))
    frame = axes.get_window_extent(renderer)
    reach = int(max(frame.width, frame.height) / pixels)
    # Of what is drawn so far: left, bottom, right, top.
    taken = [np.array([*place - 5 * pixels, *place + 5 * pixels]) for place in places]
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.diag([np.inf] * len(places))
    for number in np.argsort(distances.min(axis=1), kind="stable"):
        x, y = points[number]
        text = axes.annotate(
            names[number], (x, y), (0, 0), textcoords="offset points", ha="left", va="bottom"
        )
        box = text.get_window_extent(renderer)
        margin = 4 * pixels  # letters are hinted in pixels, and not in SVG
        size = np.array([box.width, box.height]) + margin
        for distance, angle in product(range(6, reach, 6), np.radians(ANGLES)):
            direction = np.array([np.cos(angle), np.sin(angle)])
            middle = places[number] + direction * (distance * pixels + size / 2)
            place = np.array([*middle - size / 2, *middle + size / 2])
            within = (place[:2] > frame.min).all() and (place[2:] < frame.max).all()
            if within and not any(overlap(place, other) for other in taken):
                break
        else:
            return False
        taken.append(place)
        text.set_position(tuple((place[:2] + 2 * pixels - places[number]) / pixels))
        if distance > 12:
            end = np.clip(places[number], place[:2], place[2:])
            ends = axes.transData.inverted().transform([places[number], end])
            axes.plot(*ends.T, color="#999999", linewidth=0.6, zorder=0.5)
    return True


def overlap(one: Any, other: Any) -> bool:
    """Whether two boxes (left, bottom, right, top) share any room."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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
        shown = [*sorted(common), *(["other"] if "other" in named else [])]
        clouds = []
        for number, name in enumerate(shown):
            at = [place for place, group in zip(points, named, strict=True) if group == name]
            x, y = zip(*at, strict=True)
            # As pixels: thousands of points as SVG would be megabytes.
            clouds.append(axes.scatter(x, y, s=7, linewidths=0, color=COLOURS[number], rasterized=True))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if not any(labels):
            axes.set_xticks([])
            axes.set_yticks([])
        names = [name or "(empty)" for name in shown]
        figure.legend(clouds, names, loc="outside right upper", markerscale=2)
    return svg.getvalue()
