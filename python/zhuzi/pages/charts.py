"""Charts as inline SVG and HTML, in the colours of the page; text stays text.

Lines are drawn 420 units wide, so that the text can be read when the picture is as wide as a phone. Bars are
a table, whose names and figures keep the size of the page's text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from unicodedata import east_asian_width

from markupsafe import Markup, escape

from zhuzi.pages.text import Text, plain, shown

_WIDTH, _HEIGHT = 420, 250
_LETTER, _LINE = 6.4, 13  # the size of a digit, and of a line of text

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: Text
    points: Sequence[Point]
    values: str = ""
    """A format, such as `.2f`, to write each y beside its point; empty for no figures and no dots."""
    faint: bool = False
    """Pale and not in the legend: figures that another line smooths."""
    color: int = 0
    """1 to 5; 0 takes the next."""


def moving_average(points: Sequence[Point], span: int) -> list[Point]:
    """Each y as the mean of up to `span` points around it, fewer at both ends.

    At the start as many on both sides, so that a steep fall keeps its height; at the end those before it, so
    that the line does not end in the noise of single points.
    """
    half = max(span // 2, 0)
    averaged = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[i - min(half, i) : i + min(half, i) + 1]]
        averaged.append((x, sum(near) / len(near)))
    return averaged


def line_chart(
    title: Text,
    lines: Sequence[Line],
    *,
    x_label: Text = "",
    y_label: Text = "",
    x_names: Sequence[Text] = (),
    level: tuple[float, Text] | None = None,
    from_zero: bool = False,
    log_x: bool = False,
    height: int = _HEIGHT,
) -> Markup:
    """A line chart. Figures beside points are moved so that none lies on another or leaves the frame.

    Args:
        x_names: names of the places 0, 1, ... on the x axis, instead of numbers.
        level: a dashed horizontal line at this y, with its name.
        from_zero: the y axis begins at 0.
        log_x: the x axis is logarithmic; every x is above 0.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup()
    ys = [y for _, y in points] + ([level[0]] if level else []) + ([0.0] if from_zero else [])
    room = 0.08 * (max(ys) - min(ys)) if any(line.values for line in lines) else 0.0
    y_ticks = _ticks(min(ys) if from_zero else min(ys) - room, max(ys) + room)
    frame = _Frame(
        x_span=_x_span([x for x, _ in points], x_names, log_x),
        y_span=(y_ticks[0], y_ticks[-1]),
        left=max(len(_number(y)) for y in y_ticks) * _LETTER + 10,
        top=24 if y_label else 10,
        bottom=height - 22 - (_LINE if x_label else 0) - (_LINE if _wraps(x_names) else 0),
        log_x=log_x,
    )
    drawn = [_y_axis(frame, y_ticks, y_label), _x_axis(frame, x_names, x_label, height)]
    if level:
        drawn.append(_level(frame, *level))
    colors = [line.color or i + 1 for i, line in enumerate(lines)]
    drawn += [_curve(frame, line, color) for line, color in zip(lines, colors, strict=True)]
    drawn.append(_values(frame, lines, colors))
    legend = [(line.name, color) for line, color in zip(lines, colors, strict=True) if not line.faint]
    return Markup("<figure><figcaption>{}</figcaption>{}{}</figure>").format(
        shown(title),
        _legend(legend) if len(legend) > 1 else "",
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            _WIDTH, height, plain(title), Markup("\n").join(drawn)
        ),
    )


def bar_chart(
    title: Text,
    rows: Sequence[tuple[Text, float | Sequence[float]]],
    *,
    series: Sequence[Text] = (),
    form: str = ",",
) -> Markup:
    """Horizontal bars, one per row, or one per row and series; `form` is the format of their figures."""
    held = [(name, list(value) if isinstance(value, Sequence) else [value]) for name, value in rows]
    most = max((value for _, values in held for value in values), default=0) or 1
    lines = []
    for name, values in held:
        for i, value in enumerate(values):
            heading = Markup('<th scope="row" rowspan="{0}" style="grid-row:span {0}">{1}</th>').format(
                len(values), shown(name)
            )
            bar = Markup('<td><span class="bar" style="width:{:.2f}%;background:var(--c{})"></span></td>')
            lines.append(
                Markup('<tr>{}{}<td class="n">{}</td></tr>').format(
                    heading if i == 0 else "", bar.format(100 * value / most, i + 1), format(value, form)
                )
            )
    return Markup(
        '<figure><figcaption>{}</figcaption>{}<table class="bars"><tbody>{}</tbody></table></figure>'
    ).format(shown(title), _legend([(name, i + 1) for i, name in enumerate(series)]), Markup().join(lines))


def _legend(entries: Sequence[tuple[Text, int]]) -> Markup:
    if not entries:
        return Markup()
    marks = Markup().join(
        Markup('<li><span style="background:var(--c{})"></span>{}</li>').format(color, shown(name))
        for name, color in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(marks)


@dataclass
class _Frame:
    """Where values lie in the picture, and what is taken there."""

    x_span: tuple[float, float]
    y_span: tuple[float, float]
    left: float
    top: float
    bottom: float
    log_x: bool
    right: float = _WIDTH - 12
    taken: list[Box] = field(default_factory=list)

    def x(self, value: float) -> float:
        return self.left + _share(value, self.x_span, self.log_x) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - _share(value, self.y_span, False) * (self.bottom - self.top)


def _share(value: float, span: tuple[float, float], log: bool) -> float:
    low, high = span
    if log:
        low, high, value = math.log10(low), math.log10(high), math.log10(value)
    return (value - low) / (high - low) if high > low else 0.5


def _x_span(xs: Sequence[float], names: Sequence[Text], log: bool) -> tuple[float, float]:
    if names:  # half a place free on both sides, so that the outer names and figures have room
        return -0.45, len(names) - 0.55
    return (min(xs), max(xs)) if log or len(xs) > 1 else (xs[0] - 1, xs[0] + 1)


def _ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _number(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.10g}" if abs(value) < 1e5 else f"{value:.3g}"


def _text(x: float, y: float, text: Text, anchor: str = "middle", kind: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, anchor, kind, shown(text, "tspan")
    )


def _y_axis(frame: _Frame, ticks: Sequence[float], label: Text) -> Markup:
    drawn = [_text(0, 12, label, "start", "label")] if label else []
    for tick in ticks:
        y = frame.y(tick)
        drawn.append(
            Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(frame.left, y, frame.right)
        )
        drawn.append(_text(frame.left - 6, y + 4, _number(tick), "end"))
    return Markup().join(drawn)


def _x_axis(frame: _Frame, names: Sequence[Text], label: Text, height: int) -> Markup:
    places: list[tuple[float, Text]] = list(enumerate(names))
    if not names:
        low, high = frame.x_span
        if frame.log_x:
            powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
            ticks = [10.0**power for power in powers]
        else:
            ticks = [tick for tick in _ticks(low, high, 4) if low <= tick <= high]
        places = [(tick, f"{tick:,.10g}") for tick in ticks]
    drawn = []
    for place, name in places:
        x = frame.x(place)
        width = _width(name)
        inside = min(x, _WIDTH - width / 2) if not names else x
        drawn.append(
            _wrapped(inside, frame.bottom + 16, name) if names else _text(inside, frame.bottom + 16, name)
        )
    if label:
        drawn.append(_text(frame.right, height - 3, label, "end", "label"))
    return Markup().join(drawn)


def _width(text: Text) -> float:
    """About how wide a text is, in the wider of its languages."""
    if isinstance(text, tuple):
        return max(map(_width, text))
    return _LETTER * sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _in_lines(name: str) -> list[str]:
    """A name of the axis; a long one of several words on two lines."""
    words = name.split(" ")
    half = (len(words) + 1) // 2 if _width(name) > 60 else len(words)
    return [line for line in (" ".join(words[:half]), " ".join(words[half:])) if line]


def _wraps(names: Sequence[Text]) -> bool:
    return any(
        len(_in_lines(part)) > 1 for name in names for part in ([name] if isinstance(name, str) else name)
    )


def _wrapped(x: float, y: float, name: Text) -> Markup:
    if isinstance(name, tuple):
        both = [_wrapped(x, y, part) for part in name]
        return Markup('<g class="en">{}</g><g class="zh">{}</g>').format(*both)
    return Markup().join(_text(x, y + _LINE * i, line) for i, line in enumerate(_in_lines(name)))


def _level(frame: _Frame, value: float, name: Text) -> Markup:
    y = frame.y(value)
    width = _width(name)
    frame.taken.append((frame.right - width, y - _LINE - 3, frame.right, y + 2))
    return Markup('<path class="level" d="M{:.1f} {:.1f}H{:.1f}"/>{}').format(
        frame.left, y, frame.right, _text(frame.right, y - 5, name, "end", "label halo")
    )


def _curve(frame: _Frame, line: Line, color: int) -> Markup:
    places = [(frame.x(x), frame.y(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    style = Markup('class="line{}" style="stroke:var(--c{})"').format(" faint" if line.faint else "", color)
    drawn = [Markup('<path {} d="{}"/>').format(style, path)]
    if line.values:
        frame.taken += [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
        drawn += [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5" style="fill:var(--c{})"/>').format(x, y, color)
            for x, y in places
        ]
    return Markup().join(drawn)


def _values(frame: _Frame, lines: Sequence[Line], colors: Sequence[int]) -> Markup:
    """The figures beside points: the highest first, each where it fits best."""
    wanted = [
        (frame.y(y), frame.x(x), format(y, line.values), color)
        for line, color in zip(lines, colors, strict=True)
        if line.values
        for x, y in line.points
    ]
    drawn = []
    for y, x, figure, color in sorted(wanted):
        half = len(figure) * _LETTER / 2
        around = [
            (0, -8),
            (0, 18),
            (half + 7, 4),
            (-half - 7, 4),
            (half, -10),
            (-half, -10),
            (0, -21),
            (0, 31),
        ]
        boxes = [(x + dx - half, y + dy - 10, x + dx + half, y + dy + 2) for dx, dy in around]
        overlaps = [
            sum(_overlap(box, taken) for taken in frame.taken) + 10 * _outside(box, frame) for box in boxes
        ]
        best = min(range(len(boxes)), key=lambda i: (overlaps[i], i))
        frame.taken.append(boxes[best])
        left, _, _, bottom = boxes[best]
        drawn.append(
            Markup('<text x="{:.1f}" y="{:.1f}" class="value halo" style="fill:var(--c{})">{}</text>').format(
                left, bottom - 2, color, escape(figure)
            )
        )
    return Markup().join(drawn)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _outside(box: Box, frame: _Frame) -> float:
    """By how much a box leaves the frame."""
    return (
        max(frame.left - box[0], 0)
        + max(box[2] - _WIDTH, 0)
        + max(frame.top - box[1], 0)
        + max(box[3] - frame.bottom, 0)
    )
