"""The film on the page, with window, zoom and a ruler of grey levels, and the layer of the heatmap over it."""

import numpy as np
from PIL import Image

from pneumo_hf.app.pages import as_address, render
from pneumo_hf.imaging.quality import SHOWN_RANGE
from pneumo_hf.inference.explain import opacity_of

LARGEST_SENT = 2048  # pixels a side, enough for a screen
STEPS = 12  # of the colour scale


def viewer_html(film: Image.Image | None) -> str:
    """Lay out a film with its tools, which work in the browser alone; nothing without a film.

    The ruler says which values of the file are shown, where a DICOM says them; else the grey levels of the film.
    """
    if film is None:
        return ""
    shown = film.info.get(SHOWN_RANGE, (0, 255))
    low, high = shown or (0, 255)
    notes = []
    if SHOWN_RANGE in film.info and shown is None:
        notes.append("Shown through the file's own curve: the ruler counts the levels on the screen.")
    if max(film.size) > LARGEST_SENT:
        notes.append(
            f"Sent to this page with {LARGEST_SENT} pixels on its longer side; the model read the whole film."
        )
    return render(
        "viewer.html.jinja",
        address=as_address(film, LARGEST_SENT),
        width=film.width,
        height=film.height,
        low=low,
        high=high,
        unit="pixel values" if film.info.get(SHOWN_RANGE) else "grey levels",
        notes=notes,
    )


def heat_html(coarse: np.ndarray | None, words: str = "", place: str = "film") -> str:
    """Lay out the layer of a heatmap, `[H, W]` of 0 to 1, and its colour scale; or the words why there is none.

    Args:
        place: the id of the element whose film it lies over.
    """
    if coarse is None or not coarse.any():
        return render("heat.html.jinja", words=words or "No place of this film raised the score: there is no heatmap.")
    layer = as_address(Image.fromarray(_colours(coarse)), LARGEST_SENT)
    return render("heat.html.jinja", address=layer, scale=heat_scale(), place=place)


def heat_scale() -> str:
    """Return the colours of a heatmap from little to most, as stops of a gradient in CSS."""
    stops = _colours(np.linspace(0, 1, STEPS + 1)).tolist()
    return ", ".join(f"rgb({red} {green} {blue} / {alpha / 255:.2f})" for red, green, blue, alpha in stops)


def _colours(heat: np.ndarray) -> np.ndarray:
    """Colours `[..., 4]` uint8 of a heatmap `[...]`: laid over the film they give `overlay` of full opacity."""
    from matplotlib import colormaps  # when first asked for: the app starts without

    colours = colormaps["inferno"](heat)
    colours[..., 3] = opacity_of(heat)
    return (colours * 255).round().astype(np.uint8)
