"""A film resized as its image processor does, without the processor: where neither it nor torch is imported."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from pneumo_hf.imaging.film import equalize


class Resize(NamedTuple):
    """What a processor of one fixed size does to a film before it is normalised."""

    width: int
    height: int
    resample: int  # of Pillow's filters
    clahe: bool = False

    def __call__(self, film: Image.Image) -> np.ndarray:
        """Return the whole film at that size, `[1, H, W]` uint8."""
        film = equalize(film) if self.clahe else film
        return np.array(film.resize((self.width, self.height), self.resample))[None]
