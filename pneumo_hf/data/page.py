"""Pages without outside parts: a template, and the figures of a folder embedded in it."""

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader


def write_page(folder: Path, template: str, figures: Mapping[str, str], **values) -> None:
    """Render a template to `folder/index.html`, with those of `figures` (`{file: caption}`) that the folder has."""
    pages = Environment(loader=PackageLoader("pneumo_hf", "templates"), autoescape=True, trim_blocks=True)
    embedded = [
        (base64.b64encode((folder / name).read_bytes()).decode(), caption)
        for name, caption in figures.items()
        if (folder / name).exists()
    ]
    (folder / "index.html").write_text(pages.get_template(template).render(figures=embedded, **values))
