"""Where a score comes from: Grad-CAM heatmaps, and honest measures of how far they can be believed."""

from functools import partial

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from kornia.filters import gaussian_blur2d
from matplotlib import colormaps
from PIL import Image
from torch import nn

from pneumo_hf.errors import InputError
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer, probability_of

CENTRAL_BOX = 5 / 28  # from each edge: inside lie the lungs; `pneumo_hf.data.shortcuts` measures what lies outside
STEPS = 10  # of the insertion and deletion curves


class GradCam:
    """Grad-CAM (Selvaraju et al. 2017, by captum) of P(PNEUMONIA) on a network's last feature map.

    Of an ensemble, the mean of its members' maps in one unit, the log odds that the whole film would give if it looked
    like this place, for the ensemble's log odds are the mean of theirs.
    """

    def __init__(self, predictor: Scorer):
        self.members = predictor.members
        self.cams = [LayerGradCam(partial(_log_odds, member), last_feature_map(member)) for member in self.members]

    def __call__(self, *pixels: torch.Tensor) -> np.ndarray:
        """Heatmaps `[B, H, W]` float32 of resized films `[B, 1, H, W]` uint8: 0 to 1, the largest of each film 1.

        A film without any evidence for pneumonia has a map of zeros.

        Args:
            pixels: the films as each of the members is fed them; the maps are of the first one's size.
        """
        size = tuple(pixels[0].shape[-2:])
        parts = zip(self.members, self.cams, pixels, strict=True)
        maps = np.mean([self._map(member, cam, part, size) for member, cam, part in parts], axis=0)
        return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)

    def _map(self, member: Predictor, cam: LayerGradCam, pixels: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        with torch.enable_grad():
            pixel_values = member.normalize(pixels.to(member.device)).requires_grad_()
            coarse = cam.attribute(pixel_values, relu_attributions=True).detach()
            coarse *= coarse.shape[-2:].numel()  # captum's share of the log odds, which is smaller on a finer map
        return LayerAttribution.interpolate(coarse, size, "bilinear")[:, 0].cpu().numpy()


def _log_odds(predictor: Predictor, pixel_values: torch.Tensor) -> torch.Tensor:
    logits, positive = predictor.model(pixel_values=pixel_values).logits, predictor.positive
    return logits[:, positive] - logits[:, 1 - positive]


def last_feature_map(predictor: Predictor) -> nn.Module:
    """Find the last module whose output is still a map, `[B, C, H, W]` of more than one place.

    Raises:
        InputError: the network does not end in such maps, as a transformer does not.
    """
    found, hooks = [], []
    size = predictor.image_processor.size
    blank = torch.zeros(1, 1, size["height"], size["width"], dtype=torch.uint8)
    with torch.inference_mode():
        stages = predictor.model(predictor.normalize(blank.to(predictor.device)), output_hidden_states=True)
    if stages.hidden_states[-1].ndim != 4:
        raise InputError("Grad-CAM is for networks that are convolutions to the end")

    def remember(module: nn.Module, _, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            found.append(module)

    for module in predictor.model.modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(remember))
    with torch.inference_mode():
        predictor.model(predictor.normalize(blank.to(predictor.device)))
    for hook in hooks:
        hook.remove()
    return found[-1]


def overlay(film: Image.Image, heatmap: np.ndarray, opacity: float = 0.45) -> Image.Image:
    """Lay a heatmap `[H, W]` of 0 to 1 over its film, in colour; where it is zero the film shows through."""
    heat = Image.fromarray((np.clip(heatmap, 0, 1) * 255).astype(np.uint8)).resize(
        film.size, Image.Resampling.BILINEAR
    )
    share = np.asarray(heat, dtype=np.float32) / 255
    colours = colormaps["inferno"](share)[..., :3] * 255
    grey = np.asarray(film, dtype=np.float32)[..., None]
    mixed = grey + (colours - grey) * (opacity * share[..., None] ** 0.5)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def share_inside(heatmaps: np.ndarray) -> np.ndarray:
    """Compute the share `[B]` of each heatmap `[B, H, W]` in the central box, which has 41 % of the film."""
    height, width = heatmaps.shape[1:]
    top, left = round(height * CENTRAL_BOX), round(width * CENTRAL_BOX)
    inside = heatmaps[:, top : height - top, left : width - left].sum(axis=(1, 2))
    return inside / np.maximum(heatmaps.sum(axis=(1, 2)), 1e-12)


def insertion_and_deletion(
    predictor: Scorer, heatmaps: np.ndarray, *pixels: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Measure mean P(PNEUMONIA) `[STEPS + 1]` as the hottest pixels are put into a blurred film, and as they go.

    A map that shows what the network uses makes the first curve rise early and the second fall early (Petsiuk et al.
    2018, RISE; blurred as there, for a black patch would be evidence of its own).

    Args:
        heatmaps: `[B, H, W]`. pixels: `[B, 1, H, W]` uint8, resized films as each of the members is fed them.
    """
    views = [(films.float(), blurred_away(films), _ranks(heatmaps, tuple(films.shape[-2:]))) for films in pixels]
    inserted, deleted = [], []
    for step in range(STEPS + 1):
        share = step / STEPS
        put_in = [torch.where(rank < share, films, blurred) for films, blurred, rank in views]
        taken_out = [torch.where(rank < share, blurred, films) for films, blurred, rank in views]
        for curve, mixed in ((inserted, put_in), (deleted, taken_out)):
            logits = predictor.logits(*(part.round().to(torch.uint8) for part in mixed))
            curve.append(probability_of(logits).mean())
    return np.array(inserted), np.array(deleted)


def blurred_away(pixels: torch.Tensor) -> torch.Tensor:
    """Blur all detail out of films `[B, 1, H, W]` of 0 to 255; returns floats."""
    sigma = pixels.shape[-1] / 20
    size = 2 * round(2 * sigma) + 1
    return gaussian_blur2d(pixels.float(), (size, size), (sigma, sigma))


def _ranks(heatmaps: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """`[B, 1, H, W]`, 0 for the hottest pixel to 1."""
    heat = LayerAttribution.interpolate(torch.from_numpy(heatmaps)[:, None], size, "bilinear").flatten(1)
    rank = heat.argsort(dim=1, descending=True, stable=True).argsort(dim=1) / heat.shape[1]
    return rank.view(len(heatmaps), 1, *size)
