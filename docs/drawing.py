"""Draws panels of a dashboard as SVG, as near to Grafana's as a page of documentation needs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

CELL, LINE = 50, 25  # pixels of a column and of a line of the grid
COLOURS = ("#3d71d9", "#37872d", "#e0732c", "#a352cc", "#c4162a", "#0f9ba8", "#b58a00", "#8f3bb8", "#5b6770", "#e0529c")
PAD, TOP, LEFT = 10, 30, 52
_MOST_ROWS = 6
_FONT = "Inter, 'Segoe UI', Helvetica, Arial, 'Liberation Sans', sans-serif"
_LETTER = 5.4  # pixels, about, of a legend's

Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Series:
    """`points`: of time and value; one alone for what is asked now."""

    name: str
    points: Points

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Box:
    """A place on the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float


def told(value: float, unit: str) -> str:
    """A value with its unit, in few letters."""
    if unit == "percentunit":
        return f"{_few(value * 100)} %"
    if unit == "reqps":
        return f"{_few(value)}/s"
    if unit == "s":
        return _duration(value)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{_few(value / size)} {letter}"
    return _few(value)


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if abs(seconds) >= size:
            return f"{_few(seconds / size)} {name}"
    return f"{_few(seconds * 1e6)} µs" if seconds else "0 s"


def _few(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def page(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """A whole picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="{_FONT}" role="img">'
    )
    ground = f'<rect width="{width:g}" height="{height:g}" fill="#f4f5f5"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>"]) + "\n"


def heading(box: Box, title: str) -> str:
    return _text(box.x + 4, box.y + 18, title, 14, weight="bold")


def panel(box: Box, title: str, inside: Iterable[str]) -> str:
    """A frame with a title, and what is in it."""
    frame = (
        f'<rect x="{box.x + 2:g}" y="{box.y + 2:g}" width="{box.width - 4:g}" height="{box.height - 4:g}" rx="3" '
        'fill="#fff" stroke="#d8d9da"/>'
    )
    return "\n".join([frame, _text(box.x + PAD, box.y + 20, title, 12, weight="600"), *inside])


def stat(box: Box, series: Sequence[Series], unit: str) -> Iterator[str]:
    said = told(series[0].last, unit) if series else "no data"
    yield _text(box.x + box.width / 2, box.y + box.height - 26, said, 26, COLOURS[1], "middle", "600")


def bars(box: Box, series: Sequence[Series], unit: str) -> Iterator[str]:
    shown = sorted(series, key=lambda one: -one.last)[:_MOST_ROWS]
    most = 1.0 if unit == "percentunit" else max((one.last for one in shown), default=1.0)
    step = (box.height - TOP - PAD) / max(len(shown), 1)
    for number, one in enumerate(shown):
        y = box.y + TOP + number * step
        length = max(2.0, (box.width - 2 * PAD) * min(1.0, one.last / most))
        yield _text(box.x + PAD, y + 11, one.name, 10, "#464c54")
        yield _text(box.x + box.width - PAD, y + 11, told(one.last, unit), 10, "#464c54", "end")
        size = f'width="{length:.0f}" height="{min(8, step - 16):.0f}"'
        yield f'<rect x="{box.x + PAD:g}" y="{y + 14:.0f}" {size} fill="{COLOURS[0]}"/>'


def table(box: Box, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Iterator[str]:
    width = (box.width - 2 * PAD) / max(len(columns), 1)
    for line, row in enumerate([dict(zip(columns, columns, strict=True)), *rows[:_MOST_ROWS]]):
        y = box.y + TOP + 16 + 20 * line
        for place, column in enumerate(columns):
            is_last = place == len(columns) - 1 and place > 0
            x = box.x + box.width - PAD if is_last else box.x + PAD + place * width
            colour = "#5b6770" if line == 0 else "#24292e"
            yield _text(x, y, row.get(column, ""), 11, colour, "end" if is_last else "start")


def lines(box: Box, series: Sequence[Series], unit: str, stacked: bool, first: float, last: float) -> Iterator[str]:
    """Lines from one time to another, or areas upon each other; gaps stay gaps."""
    if not series:
        yield _text(box.x + box.width / 2, box.y + box.height / 2, "no data", 12, "#5b6770", "middle")
        return
    shown = sorted(series, key=lambda one: -sum(value for _, value in one.points))[: len(COLOURS)]
    legend = list(_legend(box, [one.name for one in shown]))
    plot = Box(box.x + LEFT, box.y + TOP, box.width - LEFT - PAD, box.height - TOP - 22 - 14 * _legend_lines(legend))
    tops = _stacks(shown) if stacked else [one.points for one in shown]
    highest = max(value for points in tops for _, value in points)
    most = 60 * _nice(highest / 60) if unit == "s" and highest > 60 else _nice(highest)

    def place(at: float, value: float) -> tuple[float, float]:
        return plot.x + (at - first) / (last - first) * plot.width, plot.y + plot.height * (1 - value / most)

    yield from _grid(plot, most, unit, last - first)
    for number, points in reversed(list(enumerate(tops))):
        below = tops[number - 1] if number else ()
        yield _drawn(points, below if stacked else None, place, COLOURS[number % len(COLOURS)])
    yield from legend


def _stacks(series: Sequence[Series]) -> list[list[tuple[float, float]]]:
    """Each upon those before it, at all times that any has."""
    times = sorted({at for one in series for at, _ in one.points})
    sums, stacks = dict.fromkeys(times, 0.0), []
    for one in series:
        known = {point[0]: point[1] for point in one.points}
        sums = {at: value + known.get(at, 0.0) for at, value in sums.items()}
        stacks.append(list(sums.items()))
    return stacks


def _drawn(
    points: Points, below: Points | None, place: Callable[[float, float], tuple[float, float]], colour: str
) -> str:
    """A line, and the area down to what is below, for each piece without a gap. `below`: empty for the ground."""
    floor = {point[0]: point[1] for point in below or ()}
    made = []
    for piece in _pieces(points):
        line = "L".join(f"{x:.0f} {y:.1f}" for x, y in (place(at, value) for at, value in piece))
        if below is not None:
            back = "".join(f"L{x:.0f} {y:.1f}" for x, y in (place(at, floor.get(at, 0.0)) for at, _ in reversed(piece)))
            made.append(f'<path d="M{line}{back}Z" fill="{colour}" fill-opacity=".35"/>')
        made.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
    return "".join(made)


def _pieces(points: Points) -> Iterator[list[Sequence[float]]]:
    """Points that follow each other at the usual distance."""
    step = min((b[0] - a[0] for a, b in pairwise(points)), default=1)
    piece = [points[0]]
    for before, point in pairwise(points):
        if point[0] - before[0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(point)
    yield piece


def _grid(plot: Box, most: float, unit: str, seconds: float) -> Iterator[str]:
    for part in (0, 0.5, 1):
        y = plot.y + plot.height * (1 - part)
        yield f'<path d="M{plot.x:g} {y:.1f}h{plot.width:g}" stroke="#e4e7e9"/>'
        yield _text(plot.x - 5, y + 3, told(most * part, unit), 9, "#5b6770", "end")
    for part in (0, 0.5):
        x = plot.x + plot.width * part
        yield _text(x, plot.y + plot.height + 12, f"-{seconds * (1 - part):.0f} s", 9, "#5b6770")
    yield _text(plot.x + plot.width, plot.y + plot.height + 12, "now", 9, "#5b6770", "end")


def _legend(box: Box, names: Sequence[str]) -> Iterator[str]:
    """From the bottom up, at most three lines."""
    rows: list[list[tuple[float, int, str]]] = [[]]
    x = 0.0
    for number, name in enumerate(names):
        width = 20 + _LETTER * len(name)
        if x + width > box.width - 2 * PAD and rows[-1]:
            rows.append([])
            x = 0.0
        rows[-1].append((x, number, name))
        x += width
    for line, row in enumerate(rows[:3]):
        y = box.y + box.height - 12 - 14 * (min(len(rows), 3) - 1 - line)
        for x, number, name in row:
            dot = f'<rect x="{box.x + PAD + x:.0f}" y="{y - 4:g}" width="10" height="3" fill="{COLOURS[number]}"/>'
            yield dot + _text(box.x + PAD + x + 13, y, name, 10, "#464c54")


def _legend_lines(legend: Sequence[str]) -> int:
    return len({part.split(' y="')[1].split('"')[0] for part in legend})


def _nice(most: float) -> float:
    """The next round number above."""
    if not most > 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(most))
    return next(size * step for step in (1, 2, 2.5, 5, 10) if size * step >= most * 0.999)


def _text(
    x: float, y: float, said: str, size: int, colour: str = "#24292e", anchor: str = "start", weight: str = "normal"
) -> str:
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {look}>{escape(said)}</text>'
