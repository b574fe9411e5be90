"""Templates of the app's pages, and pictures inside their addresses: nothing is fetched from elsewhere."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

ASSETS = Path(__file__).parent / "assets"
LOSSLESS_SIDE = 1024  # pixels; a larger picture is a JPEG of high quality, a fifth of the size
QUALITY = 95

_pages = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_pages.filters["percent"] = lambda share: f"{share:.1%}"


def render(template: str, **values) -> str:
    """Fill a template of `assets/`; values are escaped, and shares become percent by the filter `percent`."""
    return _pages.get_template(template).render(**values)


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
