"""Where a score comes from: Grad-CAM heatmaps, and honest measures of how far they can be believed.

captum, kornia and matplotlib are imported where they are called: the app starts without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import nn

from pneumo_hf.errors import InputError
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer, probability_of

CENTRAL_BOX = 5 / 28  # from each edge: inside lie the lungs; `pneumo_hf.data.shortcuts` measures what lies outside
SIDES = ("top", "bottom", "left", "right")  # of the picture
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
        from captum.attr import LayerAttribution, LayerGradCam

        with torch.enable_grad(), found.laid_out() as layer:
            pixel_values = member.normalize(pixels.to(member.device)).requires_grad_()
            cam = LayerGradCam(partial(_log_odds, member), layer)
            coarse = cam.attribute(pixel_values, relu_attributions=True).detach()
            coarse *= coarse.shape[-2:].numel()  # captum's share of the log odds, which is smaller on a finer map
        return LayerAttribution.interpolate(coarse, size, "bilinear")[:, 0].cpu().numpy()


def _log_odds(predictor: Predictor, pixel_values: torch.Tensor) -> torch.Tensor:
    normal, *others = predictor.model(pixel_values=pixel_values).logits[:, predictor.order].unbind(dim=1)
    return torch.stack(others).logsumexp(dim=0) - normal


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

        def lay_out(_module: nn.Module, _inputs: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
            tokens = output[0] if isinstance(output, tuple) else output
            others = tokens.shape[1] - rows * columns  # class and register tokens, which come first
            patches = layer(tokens[:, others:].transpose(1, 2).unflatten(2, (rows, columns)))
            tokens = torch.cat([tokens[:, :others], patches.flatten(2).transpose(1, 2)], dim=1)
            return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

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
        first = output[0] if isinstance(output, tuple) and module in blocks else output
        if not isinstance(first, torch.Tensor) or len(first) != 2 or isinstance(module, nn.Dropout | nn.Softmax):
            return  # what is not of the films, and attention, which is square
        spatial = first.ndim == 4 and first.shape[-1] > 1 and _is_map(first.shape[-2:], (height, width))
        if spatial and not isinstance(output, tuple):
            outputs.append((FeatureMap(module), first))
        elif first.ndim == 3 and (isinstance(module, nn.LayerNorm) or module in blocks):
            grid = _grid(first.shape[1], (height, width))
            if grid[0] * grid[1] > 1:
                outputs.append((FeatureMap(module, grid), first))

    hooks = [module.register_forward_hook(remember) for module in predictor.model.modules()]
    grey = torch.randint(0, 256, (2, 1, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.enable_grad():
        score = _log_odds(predictor, predictor.normalize(grey.to(predictor.device)).requires_grad_())
        for hook in hooks:
            hook.remove()
        tensors = [output for _, output in outputs]
        gradients = torch.autograd.grad(score.sum(), tensors, allow_unused=True) if tensors else ()
    for (found, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        first = -found.grid[0] * found.grid[1] if found.grid else 0
        if gradient is not None and gradient[:, first:].any():
            return found
    if outputs:  # of an untrained classifier no gradient says anything
        return outputs[-1][0]
    raise InputError(f"Grad-CAM finds no map of features in {predictor.name}")


def _is_map(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether rows and columns are those of a film of this size, up to one of each that strides rounded up or down."""
    (rows, columns), (height, width) = shape, size
    return abs(rows * width - columns * height) <= (0 if height == width else height + width)


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches among so many tokens of films of this size: as many as they can be."""
    height, width = size
    near = [(rows, rows * width // height + more) for rows in range(1, tokens + 1) for more in (0, 1)]
    fitting = [grid for grid in near if 0 < grid[0] * grid[1] <= tokens and _is_map(grid, size)]
    return max(fitting, key=lambda grid: grid[0] * grid[1], default=(1, 1))


def _blocks(model: nn.Module) -> set[nn.Module]:
    return {block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}


def overlay(film: Image.Image, heatmap: np.ndarray, opacity: float = 0.45) -> Image.Image:
    """Lay a heatmap `[H, W]` of 0 to 1 over its film, in colour; where it is zero the film shows through."""
    from matplotlib import colormaps

    heat = Image.fromarray((np.clip(heatmap, 0, 1) * 255).astype(np.uint8)).resize(
        film.size, Image.Resampling.BILINEAR
    )
    share = np.asarray(heat, dtype=np.float32) / 255
    colours = colormaps["inferno"](share)[..., :3] * 255
    grey = np.asarray(film, dtype=np.float32)[..., None]
    mixed = grey + (colours - grey) * (opacity * opacity_of(share)[..., None])
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def opacity_of(heatmap: np.ndarray) -> np.ndarray:
    """Return how opaque the colours of a heatmap of 0 to 1 are: not at all where it is zero, soon where it is not."""
    return heatmap**0.5


def share_inside(heatmaps: np.ndarray) -> np.ndarray:
    """Compute the share `[B]` of each heatmap `[B, H, W]` in the central box, which has 41 % of the film."""
    height, width = heatmaps.shape[1:]
    top, left = round(height * CENTRAL_BOX), round(width * CENTRAL_BOX)
    inside = heatmaps[:, top : height - top, left : width - left].sum(axis=(1, 2))
    return inside / np.maximum(heatmaps.sum(axis=(1, 2)), 1e-12)


def shares_by_side(heatmaps: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the share `[B]` of each heatmap `[B, H, W]` outside the central box at the film's four sides, by name.

    A place belongs to the side that it is nearest to, in shares of height and width.
    """
    height, width = heatmaps.shape[1:]
    down, across = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    away = np.stack([down, 1 - down, across, 1 - across])  # [4, H, W]
    nearest = np.where(away.min(axis=0) < CENTRAL_BOX, away.argmin(axis=0), -1)
    total = np.maximum(heatmaps.sum(axis=(1, 2)), 1e-12)
    return {side: (heatmaps * (nearest == number)).sum(axis=(1, 2)) / total for number, side in enumerate(SIDES)}


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
    from kornia.filters import gaussian_blur2d

    sigma = pixels.shape[-1] / 20
    size = 2 * round(2 * sigma) + 1
    return gaussian_blur2d(pixels.float(), (size, size), (sigma, sigma))


def _ranks(heatmaps: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """`[B, 1, H, W]`, 0 for the hottest pixel to 1."""
    from captum.attr import LayerAttribution

    heat = LayerAttribution.interpolate(torch.from_numpy(heatmaps)[:, None], size, "bilinear").flatten(1)
    rank = heat.argsort(dim=1, descending=True, stable=True).argsort(dim=1) / heat.shape[1]
    return rank.view(len(heatmaps), 1, *size)
