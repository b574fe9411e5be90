"""Where a score comes from: Grad-CAM heatmaps, and honest measures of how far they can be believed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

    That of a transformer is what its last block makes of the patches, laid out as they lie in the film. Of an
    ensemble, the mean of its members' maps in one unit, the log odds that the whole film would give if it looked like
    this place, for the ensemble's log odds are the mean of theirs.
    """

    def __init__(self, predictor: Scorer):
        self.members = predictor.members
        self.maps = [last_feature_map(member) for member in self.members]

    def __call__(self, *pixels: torch.Tensor) -> np.ndarray:
        """Heatmaps `[B, H, W]` float32 of resized films `[B, 1, H, W]` uint8: 0 to 1, the largest of each film 1.

        A film without any evidence for pneumonia has a map of zeros.

        Args:
            pixels: the films as each of the members is fed them; the maps are of the first one's size.
        """
        size = tuple(pixels[0].shape[-2:])
        parts = zip(self.members, self.maps, pixels, strict=True)
        heatmaps = np.mean([self._map(member, found, part, size) for member, found, part in parts], axis=0)
        return heatmaps / np.maximum(heatmaps.max(axis=(1, 2), keepdims=True), 1e-12)

    def _map(self, member: Predictor, found: "FeatureMap", pixels: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        with torch.enable_grad(), found.laid_out() as layer:
            pixel_values = member.normalize(pixels.to(member.device)).requires_grad_()
            cam = LayerGradCam(partial(_log_odds, member), layer)
            coarse = cam.attribute(pixel_values, relu_attributions=True).detach()
            coarse *= coarse.shape[-2:].numel()  # captum's share of the log odds, which is smaller on a finer map
        return LayerAttribution.interpolate(coarse, size, "bilinear")[:, 0].cpu().numpy()


def _log_odds(predictor: Predictor, pixel_values: torch.Tensor) -> torch.Tensor:
    logits, positive = predictor.model(pixel_values=pixel_values).logits, predictor.positive
    return logits[:, positive] - logits[:, 1 - positive]


@dataclass
class FeatureMap:
    """Where a network still knows the place: a module that gives maps `[B, C, H, W]`, or tokens `[B, N, C]`."""

    module: nn.Module
    grid: tuple[int, int] | None = None  # rows and columns of the patches, of tokens; they are the last of the N

    @contextmanager
    def laid_out(self) -> Iterator[nn.Module]:
        """Give the module whose output is a map; of tokens one that the patches pass through, laid out, meanwhile."""
        if self.grid is None:
            yield self.module
            return
        layer, (rows, columns) = nn.Identity(), self.grid

        def lay_out(_module: nn.Module, _inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
            others = tokens.shape[1] - rows * columns  # class and register tokens, which come first
            patches = layer(tokens[:, others:].transpose(1, 2).unflatten(2, (rows, columns)))
            return torch.cat([tokens[:, :others], patches.flatten(2).transpose(1, 2)], dim=1)

        hook = self.module.register_forward_hook(lay_out)
        try:
            yield layer
        finally:
            hook.remove()


def last_feature_map(predictor: Predictor) -> FeatureMap:
    """Find the last map of more than one place that the scores depend on.

    The class token of a transformer takes nothing from what its last block makes of the patches: what entered that
    block is found then, by its gradient.

    Raises:
        InputError: there is none.
    """
    size, blocks = predictor.image_processor.size, _blocks(predictor.model)
    height, width = size["height"], size["width"]
    outputs: list[tuple[FeatureMap, torch.Tensor]] = []

    def remember(module: nn.Module, _inputs: tuple, output: object) -> None:
        if not isinstance(output, torch.Tensor) or isinstance(module, nn.Dropout | nn.Softmax):  # attention is square
            return
        if output.ndim == 4 and output.shape[-1] > 1 and output.shape[-2] * width == output.shape[-1] * height:
            outputs.append((FeatureMap(module), output))
        elif output.ndim == 3 and (isinstance(module, nn.LayerNorm) or module in blocks):
            rows = math.isqrt(output.shape[1] * height // width)
            grid = (rows, rows * width // height)
            if grid[0] * grid[1] > 1:
                outputs.append((FeatureMap(module, grid), output))

    hooks = [module.register_forward_hook(remember) for module in predictor.model.modules()]
    grey = torch.randint(0, 256, (1, 1, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.enable_grad():
        score = _log_odds(predictor, predictor.normalize(grey.to(predictor.device)).requires_grad_())
        for hook in hooks:
            hook.remove()
        tensors = [output for _, output in outputs]
        gradients = torch.autograd.grad(score.sum(), tensors, allow_unused=True) if tensors else ()
    for (found, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        patches = found.grid and found.grid[0] * found.grid[1]
        if patches is None or (gradient is not None and gradient[:, -patches:].any()):
            return found
    raise InputError(f"Grad-CAM finds no map of features in {predictor.name}")


def _blocks(model: nn.Module) -> set[nn.Module]:
    return {block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}


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
        heatmaps: `[B, H, W]`.
        pixels: `[B, 1, H, W]` uint8, resized films as each of the members is fed them.
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
