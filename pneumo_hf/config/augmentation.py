"""The augmentation policies, by name, and their overrides."""

import difflib
from dataclasses import dataclass, fields, replace

from pneumo_hf.config.arguments import Kwargs
from pneumo_hf.errors import InputError


@dataclass(frozen=True)
class AugmentationPolicy:
    """How strongly films are augmented; the defaults change nothing. A `_prob` is a share of the films."""

    crop_scale: float = 1.0  # smallest share of the film that RandomResizedCrop keeps
    rotation: float = 0.0  # largest rotation, degrees
    translate: float = 0.0  # largest shift, as a share of the side
    horizontal_flip_prob: float = 0.0
    intensity_jitter: float = 0.0  # strength of brightness, contrast and gamma
    blur_prob: float = 0.0
    sharpen_prob: float = 0.0  # unsharp masking, as scanners and viewers do
    downscale_prob: float = 0.0  # down and up again: sharpness shows the size of the original
    gaussian_noise_prob: float = 0.0
    jpeg_prob: float = 0.0  # compressed, at a quality of 30 to 100: films come as originals and as copies
    border_swap_prob: float = 0.0  # another film's border, up to a fifth of each side: networks take it for a sign
    outlier_exposure_prob: float = 0.0  # without any detail, taught as uncertain


LARGEST = {"rotation": 180.0, "intensity_jitter": 0.95}  # all others go to 1
POLICIES = {
    "none": AugmentationPolicy(),
    "mild": AugmentationPolicy(crop_scale=0.8, rotation=10, translate=0.05, intensity_jitter=0.1),
    "strong": AugmentationPolicy(crop_scale=0.15, rotation=10, translate=0.05, intensity_jitter=0.3, blur_prob=0.2),
    "robust": AugmentationPolicy(
        crop_scale=0.8,
        rotation=10,
        translate=0.05,
        horizontal_flip_prob=0.5,
        intensity_jitter=0.3,
        blur_prob=0.3,
        sharpen_prob=0.5,
        downscale_prob=0.3,
        gaussian_noise_prob=0.5,
        jpeg_prob=0.5,
        border_swap_prob=1,
        outlier_exposure_prob=0.1,
    ),
}


def make_policy(name: str, overrides: Kwargs) -> AugmentationPolicy:
    """Look a policy up and apply its overrides.

    >>> make_policy("strong", {"crop_scale": 0.3}).crop_scale
    0.3

    Raises:
        InputError: an override is unknown or out of range.
    """
    if not isinstance(overrides, dict | None):
        raise InputError(f"augmentation_kwargs is {overrides}, but is a mapping: {{crop_scale: 0.3}}")
    known = [f.name for f in fields(AugmentationPolicy)]
    for key, value in (overrides or {}).items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
            raise InputError(f"augmentation_kwargs: unknown key {key}; did you mean {near}?")
        low, high = 0.01 if key == "crop_scale" else 0.0, LARGEST.get(key, 1.0)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise InputError(f"augmentation_kwargs: {key} is {value}, but goes from {low:g} to {high:g}")
    return replace(POLICIES[name], **(overrides or {}))
