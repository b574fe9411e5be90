"""Pages without outside parts: a template, and the figures of a folder embedded in it."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

matplotlib.use("Agg")

TEMPLATES = Path(__file__).parent / "templates"
INK, ACCENT, SOFT = "#1f2937", "#0f766e", "#99d5cf"


def write_page(folder: Path, template: str, figures: Mapping[str, str], **values) -> None:
    """Render a template to `folder/index.html`, with those of `figures` (`{file: caption}`) that the folder has."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    embedded = [
        (base64.b64encode((folder / name).read_bytes()).decode(), caption)
        for name, caption in figures.items()
        if (folder / name).exists()
    ]
    (folder / "index.html").write_text(pages.get_template(template).render(figures=embedded, **values))


def save_figure(path: Path, draw: Callable[[Axes], None]) -> None:
    """Save one pair of axes, drawn by `draw`, as a PNG."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    draw(figure.subplots())
    save_png(path, figure)


def save_png(path: Path, figure: Figure, dpi: int = 120) -> None:
    """Save a figure in 256 colours: a third of the size, and a page embeds them all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
