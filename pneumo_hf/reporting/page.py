"""Pages without outside parts: a template, and the figures of a folder embedded in it."""

import base64
import datetime
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.reporting.findings import shortcut_level
from pneumo_hf.reporting.names import chosen_for

if TYPE_CHECKING:  # the app writes pages without charts: it starts without
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
INK, ACCENT, SOFT = "#1f2937", "#0f766e", "#99d5cf"
ON_BLACK = {  # of matplotlib: films are looked at in the dark
    "figure.facecolor": "black",
    **dict.fromkeys(("text.color", "axes.titlecolor", "axes.labelcolor", "ytick.color"), "#e5e7eb"),
}
FILMS = {"mistakes.png", "abstained.png", "heatmaps.png", "montage.png", "mean_films.png", "duplicates.png"}
FILMS |= {"doubts.png"}  # pictures of films, whose greys mean something; all others are charts
CONTENTS, LEAST_LISTED = "<!-- contents -->", 3
CONTENTS_HTML = (
    '<nav class="contents" aria-label="Contents"><details><summary>Contents</summary><ol>{}</ol></details></nav>'
)
WIDE = 1.5  # width by height from which a picture has a row of its own


class Picture(NamedTuple):
    """A figure as a page shows it: a PNG in base64, its size in pixels, and its classes."""

    content: str
    caption: str
    width: int
    height: int
    classes: str


def write_page(folder: Path, template: str, figures: Mapping[str, str], **values) -> None:
    """Render a template to `folder/index.html`, with those of `figures` (`{file: caption}`) that the folder has."""
    shown = [_picture(folder / name, caption) for name, caption in figures.items() if (folder / name).exists()]
    (folder / "index.html").write_text(render_page(template, figures=shown, **values))


def render_page(template: str, **values) -> str:
    """Render a template that extends `page.html.jinja`; the page needs no other file and no network."""
    always = {"disclaimer": DISCLAIMER, "date": datetime.date.today().isoformat(), "version": __version__}
    return with_contents(templates().get_template(template).render(**always | values))


def templates(*folders: Path) -> Environment:
    """Load templates of these folders, and those of the pages."""
    found = Environment(loader=FileSystemLoader([*folders, TEMPLATES]), autoescape=True, trim_blocks=True)
    found.filters |= {"level": shortcut_level, "low_end": low_end, "chosen_for": chosen_for}
    return found


def with_contents(page: str) -> str:
    """Give each `h2` of a page an id, list them where the page wants its contents, and let wide tables scroll.

    >>> with_contents("<h2>Every metric</h2>")
    '<h2 id="every-metric">Every metric</h2>'
    """
    listed: list[str] = []

    def named(heading: re.Match) -> str:
        anchor = "-".join(re.findall(r"\w+", heading[1].lower()))
        listed.append(f'<li><a href="#{anchor}">{heading[1]}</a></li>')
        return f'<h2 id="{anchor}">{heading[1]}</h2>'

    page = re.sub(r"<h2>(.*?)</h2>", named, page)
    page = page.replace("<table", '<div class="scroll"><table').replace("</table>", "</table></div>")
    return page.replace(CONTENTS, CONTENTS_HTML.format("".join(listed)) if len(listed) >= LEAST_LISTED else "")


def low_end(metrics: Iterable[Mapping]) -> float:
    """Where the scale of a forest plot begins: the tenth below all values and intervals.

    >>> low_end([{"value": 0.97, "ci95": [0.93, 0.99]}, {"value": None, "ci95": [None, None]}])
    0.9
    """
    ends = [end for m in metrics if m for end in (m["value"], *m["ci95"]) if end is not None and end == end]
    return math.floor(min([*ends, 0.9]) * 10) / 10


def _picture(path: Path, caption: str) -> Picture:
    with Image.open(path) as picture:
        width, height = picture.size
    classes = ["films" if path.name in FILMS else "chart", *(["wide"] if width > WIDE * height else [])]
    return Picture(base64.b64encode(path.read_bytes()).decode(), caption, width, height, " ".join(classes))


def save_figure(path: Path, draw: "Callable[[Axes], None]") -> None:
    """Save one pair of axes, drawn by `draw`, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    draw(figure.subplots())
    save_png(path, figure)


def save_png(path: Path, figure: "Figure", dpi: int = 120) -> None:
    """Save a figure in 256 colours: a third of the size, and a page embeds them all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
