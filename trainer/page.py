"""One self-contained HTML page: sections of text, tables and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainer.files import replace_file

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2230; background: #fff }
h1 { font-size: 1.7rem; margin: 0 0 .3rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem }
p { margin: .3rem 0 .8rem; max-width: 50rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #dfe3ec }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: .4rem 0 }
figure { margin: 0 } figcaption { font-size: .8rem; color: #566; max-width: 15rem }
.pixels { image-rendering: pixelated; display: block }
.plot { width: 31rem; max-width: 100%; display: block }
@media (prefers-color-scheme: dark) {
  body { color: #e4e7ef; background: #14161c } th, td { border-color: #333a48 }
  figcaption { color: #9aa } .plot { background: #fff; border-radius: 4px } }
</style></head><body>
<h1>{{ title }}</h1><p>{{ lead }}</p>
{% for s in sections %}<h2>{{ s.title }}</h2>
{% if s.text %}<p>{{ s.text }}</p>{% endif %}
{% if s.table %}<table>{% for row in s.table %}<tr>{% for cell in row %}
<{{ "th" if row is sameas s.table[0] else "td" }}>
{{- cell }}</{{ "th" if row is sameas s.table[0] else "td" }}>{% endfor %}</tr>{% endfor %}
</table>{% endif %}
{% for row in s.rows %}<div class="row">{% for p in row %}<figure>
<img class="{{ p.kind }}" alt="{{ p.caption }}" src="{{ p.uri }}"
{%- if p.width %} width="{{ p.width }}"{% endif %}>
<figcaption>{{ p.caption }}</figcaption></figure>{% endfor %}</div>{% endfor %}
{% endfor %}</body></html>
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the page."""

    caption: str
    uri: str
    kind: str = "pixels"
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, a table whose first row is its head, rows of pictures."""

    title: str
    text: str = ""
    table: Sequence[Sequence[str]] = ()
    rows: Sequence[Sequence[Shown]] = field(default_factory=tuple)


def uri(content: bytes) -> str:
    """PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def picture(caption: str, pixels: Tensor, width: int = 224) -> Shown:
    """(3, H, W) uint8, shown ``width`` CSS pixels wide without smoothing."""
    memory = io.BytesIO()
    rows = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    Image.fromarray(rows).save(memory, "PNG", optimize=True)
    return Shown(caption, uri(memory.getvalue()), width=width)


def heat(caption: str, values: Tensor, top: float | None = None, width: int = 224) -> Shown:
    """(H, W) float from 0 to ``top`` (default: its 99.5 % quantile) as a heat map."""
    from matplotlib import colormaps

    array = values.double().numpy()
    top = float(np.quantile(array, 0.995)) if top is None else top
    coloured = colormaps["magma"](np.clip(array / (top or 1.0), 0, 1), bytes=True)
    memory = io.BytesIO()
    Image.fromarray(np.asarray(coloured)[..., :3]).save(memory, "PNG", optimize=True)
    return Shown(caption, uri(memory.getvalue()), width=width)


def signed(caption: str, values: Tensor, width: int = 224) -> Shown:
    """(3, H, W) float around 0 as a picture around mid grey, four times as strong."""
    pixels = (127.5 + 4 * 255 * values).clamp(0, 255).byte()
    return picture(caption, pixels, width)


def plot(caption: str, figure: Figure) -> Shown:
    """A matplotlib figure."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=110, bbox_inches="tight")
    return Shown(caption, uri(memory.getvalue()), "plot")


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    log: bool = False,
) -> Figure:
    """One set of axes with a named line per entry."""
    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.add_subplot()
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="o" if len(x) < 15 else "", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if log:
        axes.set_yscale("log")
    if len(lines) > 1:
        axes.legend()
    return figure


def histogram(values: NDArray[np.float64], x_label: str) -> Figure:
    """How many pictures have which value."""
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.add_subplot()
    axes.hist(values, bins=min(30, max(5, len(values) // 2)))
    axes.set_xlabel(x_label)
    axes.set_ylabel("pictures")
    return figure


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Writes the page beside ``path`` and renames it there. Raises TrainerError when it cannot."""
    text = Environment(autoescape=True).from_string(TEMPLATE)
    content = text.render(title=title, lead=lead, sections=sections)
    replace_file(path, content.encode())
