"""The only randomness that films meet: augmentation in batches, on the device, by kornia."""

import kornia.augmentation as K
import torch
from torch import nn
from torch.nn.functional import interpolate

from pneumo_hf.config.augmentation import AugmentationPolicy

STRONGEST_NOISE = 0.08  # of the range from black to white: 20 grey levels
WIDEST_BORDER = 0.2  # of the side
MOST_CELLS = 8  # a side of a film without detail: shades, but no vessel, rib or edge of a lung


class XrayAugment(nn.Module):
    """Random crops, turns, shifts, exposure and blur of grey films, `[B, 1, H, W]` in 0..255 -> the same.

    Strong RandomResizedCrop with exposure jitter is what carries over to films of another acquisition period; no
    vertical flips and no quarter turns, which no film has. In two steps: `geometric`, which part of the film is seen,
    and `photometric`, what is done to its quality. Teachers answer between them, and the student is trained to answer
    likewise to what is left of the film ("noisy student", Xie et al. 2020).
    """

    def __init__(self, policy: AugmentationPolicy, size: tuple[int, int]):
        super().__init__()
        self.policy = policy
        geometric = [
            K.RandomAffine(degrees=policy.rotation, translate=(policy.translate, policy.translate), p=0.8),
            K.RandomResizedCrop(size, scale=(policy.crop_scale, 1.0), ratio=(0.75, 4 / 3)),
        ]
        if policy.horizontal_flip_prob:
            geometric.append(K.RandomHorizontalFlip(p=policy.horizontal_flip_prob))
        quality = []
        if policy.intensity_jitter:
            low, high = 1 - policy.intensity_jitter, 1 + policy.intensity_jitter
            quality += [K.RandomBrightness((low, high), p=0.8), K.RandomContrast((low, high), p=0.8)]
            quality += [K.RandomGamma((low, 1 / low), p=0.8)]
        if policy.blur_prob:
            quality.append(K.RandomGaussianBlur((7, 7), (0.3, 2.0), p=policy.blur_prob))
        self.geometric_steps = K.AugmentationSequential(*geometric, data_keys=["input"])
        self.quality_steps = K.AugmentationSequential(*quality, data_keys=["input"]) if quality else nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.photometric(self.geometric(pixels))

    @torch.no_grad()
    def geometric(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take another part of each film, by chance turned, shifted and mirrored."""
        return self.geometric_steps(pixels.float() / 255).clamp(0, 1) * 255

    @torch.no_grad()
    def photometric(self, pixels: torch.Tensor) -> torch.Tensor:
        """Give each film another film's border, and other exposure, sharpness and noise."""
        films, policy = pixels / 255, self.policy
        if policy.border_swap_prob:
            films = swap_borders(films, policy.border_swap_prob)
        films = self.quality_steps(films)
        if policy.downscale_prob:
            films = downscale(films, policy.downscale_prob)
        if (
            policy.gaussian_noise_prob
        ):  # last, as in a detector: what is scaled or blurred afterwards has no noise left
            films = add_gaussian_noise(films, policy.gaussian_noise_prob)
        return films.clamp(0, 1) * 255


def swap_borders(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Give a share of the films another film's border: what lies outside a box whose sides are drawn for each.

    The border of a film, with little of the lungs, shows its label in one period of acquisition and not in the next;
    at random it shows nothing ("Noise or Signal", Xiao et al. 2021, does so with the backgrounds of photographs).
    """
    rows, columns = (
        torch.linspace(0, 1, side, device=films.device).expand(len(films), side) for side in films.shape[-2:]
    )
    top, left, bottom, right = WIDEST_BORDER * torch.rand(4, len(films), 1, device=films.device)
    inside = ((rows >= top) & (rows <= 1 - bottom))[:, :, None] & ((columns >= left) & (columns <= 1 - right))[:, None]
    chosen = torch.rand(len(films), 1, 1, device=films.device) < prob
    other = films[torch.randperm(len(films), device=films.device)]
    return torch.where((inside | ~chosen)[:, None], films, other)


def downscale(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Scale a share of the films down, to .25 to 1 of the side, and up again."""
    side = round(films.shape[-1] * float(torch.empty(()).uniform_(0.25, 1)))
    small = interpolate(films, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    coarse = interpolate(small, size=films.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(torch.rand(len(films), 1, 1, 1, device=films.device) < prob, coarse, films)


def expose_outliers(films: torch.Tensor, prob: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Take all detail from a share of the films; returns also which, `[B]` bool: their targets are uninformative.

    Without them networks may call films without detail pneumonia, normal ones and grey squares too (docs/results.md).
    The coarse shades that stay do show labels within one set of films, but no film should be read by them alone; even
    targets where there is nothing to go by are those of outlier exposure (Hendrycks et al. 2019).
    """
    cells = int(torch.randint(1, MOST_CELLS + 1, ()))
    few = interpolate(films, size=(cells, cells), mode="bilinear", antialias=True, align_corners=False)
    blank = interpolate(few, size=films.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 255)
    chosen = torch.rand(len(films), device=films.device) < prob
    return torch.where(chosen[:, None, None, None], blank, films), chosen


def add_gaussian_noise(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Add Gaussian noise to a share of the films, of a deviation of up to STRONGEST_NOISE drawn for each."""
    chosen = torch.rand(len(films), 1, 1, 1, device=films.device) < prob
    deviation = STRONGEST_NOISE * torch.rand_like(films[:, :1, :1, :1]) * chosen
    return films + deviation * torch.randn_like(films)
