"""Draws the plots of benches/README.md as SVG. They follow the reader's light or dark theme, and a screen
reader finds each point as text."""

from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT, LEFT, TOP = 760, 230, 62, 58
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #d1d9e0 }
.axis { stroke: #59636e }
.plot { fill: none; stroke-width: 2 }
.a { stroke: #0757ba } .point.a { fill: #0757ba }
.b { stroke: #59636e; stroke-dasharray: 6 3 } .point.b { fill: #59636e }
.c { stroke: #b35900; stroke-dasharray: 2 3 } .point.c { fill: #b35900 }
.point { stroke-dasharray: none }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .grid { stroke: #3d444d }
  .axis { stroke: #9198a1 }
  .a { stroke: #74b9ff } .point.a { fill: #74b9ff }
  .b { stroke: #b7bdc8 } .point.b { fill: #b7bdc8 }
  .c { stroke: #ffb366 } .point.c { fill: #ffb366 }
  .page { fill: #0d1117 }
}
"""


def lines(title, x_label, panels):
    """Draws panels side by side: each has a label with the unit, and lines of a name and its points.

    The lines have the same names in each panel, or fewer. The x axis is logarithmic."""
    width = (WIDTH - LEFT * len(panels) - 16) / len(panels)
    height = TOP + PANEL_HEIGHT + 82
    names = [name for name, _ in panels[0][1]]
    parts = []
    for number, (y_label, series) in enumerate(panels):
        left = LEFT + number * (width + LEFT)
        parts += panel(left, width, x_label, y_label, series, names)
    for number, name in enumerate(names):
        x, y = LEFT + number * 200, height - 16
        parts.append(f'<line class="plot {"abc"[number]}" x1="{x}" y1="{y - 4}" x2="{x + 30}"'
                     f' y2="{y - 4}"/>')
        parts.append(text(x + 38, y, name))
    return page(title, describe(panels, x_label), height, parts)


def panel(left, width, x_label, y_label, series, names):
    """Draws one panel, whose y axis begins at 0."""
    bottom = TOP + PANEL_HEIGHT
    counts = [x for x, _ in series[0][1]]
    step = tick_step(max(y for _, points in series for _, y in points))
    top = step * (int(max(y for _, points in series for _, y in points) / step) + 1)

    def at(x, y):
        return left + width * counts.index(x) / (len(counts) - 1), bottom - PANEL_HEIGHT * y / top

    parts = [text(left, TOP - 12, y_label)]
    for tick in range(round(top / step) + 1):
        y = bottom - PANEL_HEIGHT * tick * step / top
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{left + width:.1f}"'
                     f' y2="{y:.1f}"/>')
        parts.append(text(left - 8, y + 4, f"{tick * step:,g}", "end"))
    parts.append(f'<line class="axis" x1="{left:.1f}" y1="{bottom}" x2="{left + width:.1f}"'
                 f' y2="{bottom}"/>')
    for x in counts:
        parts.append(text(at(x, 0)[0], bottom + 19, str(x), "middle"))
    parts.append(text(left + width / 2, bottom + 40, x_label, "middle"))
    # The first line is drawn last, so that it lies above the others.
    for name, points in reversed(series):
        kind = "abc"[names.index(name)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="plot {kind}" points="{path}"/>')
        for point in points:
            x, y = at(*point)
            parts.append(f'<circle class="point {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>'
                         f'{escape(name)}, {point[0]} {x_label}: {figure(point[1])}</title></circle>')
    return parts


def shares(title, x_label, rows):
    """Draws each row's median, and a line from its lowest to its highest figure, beside 100 %.

    A row has a name, which direction is better, the median, the lowest and the highest figure."""
    left, right, row_height = 250, 80, 34
    bottom = TOP + row_height * len(rows)
    low = min(90, min(lowest for _, _, _, lowest, _ in rows))
    high = max(110, max(highest for *_, highest in rows))
    step = tick_step(high - low)
    first, last = int(low // step), int(-(-high // step))

    def at(share):
        return left + (WIDTH - left - right) * (share / step - first) / (last - first)

    parts = []
    for tick in range(first, last + 1):
        x = at(tick * step)
        kind = "axis" if tick * step == 100 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 19, f"{tick * step:,g}", "middle"))
    parts.append(text((left + WIDTH - right) / 2, bottom + 40, x_label, "middle"))
    for number, (name, better, median, lowest, highest) in enumerate(rows):
        y = TOP + row_height * (number + 0.5)
        said = f"{name}: {median:.0f} % ({lowest:.0f}–{highest:.0f} %), {better}"
        parts.append(text(left - 12, y - 2, name, "end"))
        parts.append(text(left - 12, y + 12, better, "end", "font-size: 11px"))
        parts.append(f'<line class="plot a" x1="{at(lowest):.1f}" y1="{y:.1f}" x2="{at(highest):.1f}"'
                     f' y2="{y:.1f}"/>')
        parts.append(f'<circle class="point a" cx="{at(median):.1f}" cy="{y:.1f}" r="5">'
                     f'<title>{escape(said)}</title></circle>')
        parts.append(text(WIDTH - right + 14, y + 4, f"{median:.0f} %"))
    parts.append(text(16, bottom + 66, "A point is the median of the rounds; its line leads from the"
                                       " lowest to the highest."))
    said = "; ".join(f"{name} {median:.0f} %" for name, _, median, *_ in rows)
    return page(title, f"{x_label}: {said}.", bottom + 82, parts)


def tick_step(highest):
    """Returns a round distance between ticks, of which four to ten fit."""
    step = 1e-6
    while highest / step > 8:
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    return step


def figure(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"


def describe(panels, x_label):
    """Describes all points in words."""
    sentences = []
    for y_label, series in panels:
        for name, points in series:
            said = ", ".join(f"{figure(y)} at {x}" for x, y in points)
            sentences.append(f"{name}, {y_label} by {x_label}: {said}.")
    return " ".join(sentences)


def text(x, y, content, anchor="start", style=""):
    styled = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styled}>{escape(content)}</text>'


def page(title, description, height, parts):
    """Puts the parts below the title. The description is for screen readers."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        *parts, "</svg>", ""])
