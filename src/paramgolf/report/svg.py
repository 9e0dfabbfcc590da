"""A matplotlib figure as inline SVG that takes its colours and font from the page.

Figures are drawn with the stand-in colours below; in the SVG each becomes a CSS variable, so one drawing serves light
and dark pages. Text stays text, nothing is fetched.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010101"
MUTED = "#020202"
LINE = "#030303"
ACCENT = "#040404"
SOFT = "#050505"

_VARIABLES = {"#000000": "--ink", INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", SOFT: "--soft"}
WIDTH_INCHES = 4.9


def new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """One figure with one calm set of axes: no frame above and right, muted ticks, no marks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, labelsize=9, length=0, pad=5)
    axes.xaxis.label.set(color=MUTED, fontsize=9)
    axes.yaxis.label.set(color=MUTED, fontsize=9)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def to_svg(figure: Figure, label: str) -> str:
    """The figure as one `<svg>` element without fixed size, ids of groups, metadata or addresses."""
    import matplotlib

    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9]+_\d+(?:\.\d+)?"', "", text)
    text = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(label)}">', text, count=1
    )
    text = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--sans)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
