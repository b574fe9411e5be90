"""Templates of the app's pages, and pictures inside their addresses: nothing is fetched from elsewhere."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

ASSETS = Path(__file__).parent / "assets"
LOSSLESS_SIDE = 1024  # pixels; a larger picture is a JPEG of high quality, a fifth of the size
QUALITY = 95
MOST = 4  # decimals of a percentage

_pages = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_pages.filters["percent"] = lambda share, places=1: f"{share:.{places}%}"


def render(template: str, **values) -> str:
    """Fill a template of `assets/`; values are escaped, and shares become percent by the filter `percent`."""
    return _pages.get_template(template).render(**values)


def decimals(scores: Iterable[float | None], limits: Iterable[float]) -> int:
    """Choose the decimals of percents, one or as many more as it takes that no score below a limit looks as high.

    >>> decimals([0.0362, 0.9], [0.0364]), decimals([0.0364], [0.0364])
    (2, 1)
    """
    below = [(score, limit) for score in scores for limit in limits if score is not None and score < limit]
    alike = (
        any(f"{score:.{places}%}" == f"{limit:.{places}%}" for score, limit in below) for places in range(1, MOST)
    )
    return next((places for places, found in enumerate(alike, 1) if not found), MOST)


def as_address(picture: Image.Image, most: int) -> str:
    """Put a picture inside its address, made smaller to `most` pixels a side."""
    file, small = io.BytesIO(), picture.copy()
    small.thumbnail((most, most))
    if max(small.size) <= LOSSLESS_SIDE or small.mode == "RGBA":
        kind = "png"
        small.save(file, kind, compress_level=1)
    else:
        kind = "jpeg"
        small.save(file, kind, quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def head() -> str:
    """Return the style and the script of the page."""
    return f"<style>{(ASSETS / 'style.css').read_text()}</style><script>{(ASSETS / 'viewer.js').read_text()}</script>"
