"""The only randomness that films meet: augmentation in batches, on the device, by kornia."""

import math

import kornia.augmentation as K
import torch
from kornia.filters import gaussian_blur2d
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad

from pneumo_hf.config.augmentation import AugmentationPolicy

STRONGEST_NOISE = 0.08  # of the range from black to white: 20 grey levels
WIDEST_BORDER = 0.2  # of the side
STRONGEST_SHARPENING = 2.0  # times what a blur takes away
LOWEST_QUALITY, HIGHEST_QUALITY = 30, 100  # of JPEG
DOWNSCALING = ("bilinear", "bicubic", "area", "nearest-exact")  # filters that viewers, scanners and scripts use
LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
MOST_CELLS = 8  # a side of a film without detail: shades, but no vessel, rib or edge of a lung


class XrayAugment(nn.Module):
    """Random crops, turns, shifts, exposure and blur of grey films, `[B, 1, H, W]` in 0..255 -> the same.

    Strong RandomResizedCrop with exposure jitter is what carries over to films of another acquisition period; no
    vertical flips and no quarter turns, which no film has. In two steps: `geometric`, which part of the film is seen,
    and `photometric`, what is done to its quality. Teachers answer between them, and the student is trained to answer
    likewise to what is left of the film ("noisy student", Xie et al. 2020).

    Args:
        size: of what comes out, in pixels, height first.
        cropped: of what goes in and teachers see, if it is larger.
    """

    def __init__(self, policy: AugmentationPolicy, size: tuple[int, int], cropped: tuple[int, int] | None = None):
        super().__init__()
        self.policy, self.size = policy, tuple(size)
        geometric = [
            K.RandomAffine(degrees=policy.rotation, translate=(policy.translate, policy.translate), p=0.8),
            K.RandomResizedCrop(cropped or size, scale=(policy.crop_scale, 1.0), ratio=(0.75, 4 / 3)),
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
        if policy.sharpen_prob:
            films = sharpen(films, policy.sharpen_prob)
        if policy.downscale_prob:
            films = downscale(films, policy.downscale_prob)
        if policy.gaussian_noise_prob:  # after these, as in a detector: what is scaled or blurred has no noise left
            films = add_gaussian_noise(films, policy.gaussian_noise_prob)
        if policy.jpeg_prob:  # last, as when a file is written
            films = compress(films.clamp(0, 1), policy.jpeg_prob)
        if films.shape[-2:] != self.size:  # after all that happens to a film before it reaches the network
            films = interpolate(films, self.size, mode="bilinear", antialias=True, align_corners=False)
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


def sharpen(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Sharpen a share of the films by an unsharp mask, of a width drawn for all and a strength drawn for each."""
    width = float(torch.empty(()).uniform_(0.5, 2))
    amount = STRONGEST_SHARPENING * torch.rand_like(films[:, :1, :1, :1])
    amount *= torch.rand_like(amount) < prob
    return films + amount * (films - gaussian_blur2d(films, (9, 9), (width, width)))


def downscale(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Scale a share of the films down, to .25 to 1 of the side and by a filter drawn for all, and up again."""
    side = round(films.shape[-1] * float(torch.empty(()).uniform_(0.25, 1)))
    mode = DOWNSCALING[int(torch.randint(len(DOWNSCALING), ()))]
    smooth = {"antialias": True, "align_corners": False} if mode in ("bilinear", "bicubic") else {}
    small = interpolate(films, size=(side, side), mode=mode, **smooth)
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


def compress(films: torch.Tensor, prob: float) -> torch.Tensor:
    """Compress a share of the films, `[B, 1, H, W]` in 0..1, by JPEG at a quality of 30 to 100 drawn for each.

    What a film loses by JPEG, and nothing of its file: cosine transforms of 8 x 8 pixels, rounded to the steps that
    the standard recommends for brightness (ITU-T T.81, table K.1), scaled as libjpeg scales them. kornia's own takes
    colour only, and twenty times as long.
    """
    height, width = films.shape[-2:]
    padded = pad(films * 255 - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
    waves = _cosine_waves(films)
    quality = torch.empty(len(films), 1, 1, 1, device=films.device).uniform_(LOWEST_QUALITY, HIGHEST_QUALITY)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    steps = (films.new_tensor(LUMINANCE_STEPS).view(1, 64, 1, 1) * scale).round().clamp(1, 255)
    kept = (conv2d(padded, waves, stride=8) / steps).round() * steps  # [B, 64, H / 8, W / 8]
    restored = conv_transpose2d(kept, waves, stride=8)[..., :height, :width]
    chosen = torch.rand(len(films), 1, 1, 1, device=films.device) < prob
    return torch.where(chosen, (restored.round() + 128) / 255, films)


def _cosine_waves(like: torch.Tensor) -> torch.Tensor:
    """Make the orthonormal cosine transform of 8 x 8 pixels, as 64 filters `[64, 1, 8, 8]`."""
    points = torch.arange(8, device=like.device, dtype=like.dtype)
    line = torch.cos((points + 0.5) * points[:, None] * math.pi / 8) / 2
    line[0] /= math.sqrt(2)
    return torch.einsum("uy,vx->uvyx", line, line).reshape(64, 1, 8, 8)
