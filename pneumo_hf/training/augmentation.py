"""The only randomness that films meet: augmentation in batches, on the device, by kornia."""

import kornia.augmentation as K
import torch
from torch import nn
from torch.nn.functional import interpolate

from pneumo_hf.config import XrayTrainingArguments

STRONGEST_GRAIN = 0.08  # of the range from black to white: 20 grey levels
WIDEST_FRAME = 0.2  # of the side
FINEST_WASH = 8  # cells a side: shades, but no vessel, rib or rim of a lung


class XrayAugment(nn.Module):
    """Random crops, turns, shifts, exposure and blur of grey films, `[B, 1, H, W]` in 0..255 -> the same.

    Strong RandomResizedCrop with exposure jitter is what carries over to films of another acquisition period; no
    vertical flips and no quarter turns, which no film has. In two steps: which part of the film is seen, and how
    it is spoilt. Teachers answer between them, and the student learns to answer likewise to what is left of the film
    ("noisy student", Xie et al. 2020).
    """

    def __init__(self, arguments: XrayTrainingArguments, size: tuple[int, int]):
        super().__init__()
        frame = [
            K.RandomAffine(degrees=arguments.rotation, translate=(arguments.shift, arguments.shift), p=0.8),
            K.RandomResizedCrop(size, scale=(arguments.crop_scale, 1.0), ratio=(0.75, 4 / 3)),
        ]
        if arguments.horizontal_flip:
            frame.append(K.RandomHorizontalFlip(p=arguments.horizontal_flip))
        quality = []
        if arguments.jitter:
            low, high = 1 - arguments.jitter, 1 + arguments.jitter
            quality += [K.RandomBrightness((low, high), p=0.8), K.RandomContrast((low, high), p=0.8)]
            quality += [K.RandomGamma((low, 1 / low), p=0.8)]
        if arguments.blur:
            quality.append(K.RandomGaussianBlur((7, 7), (0.3, 2.0), p=arguments.blur))
        self.frame_steps = K.AugmentationSequential(*frame, data_keys=["input"])
        self.quality_steps = K.AugmentationSequential(*quality, data_keys=["input"]) if quality else nn.Identity()
        self.style_mix, self.coarsen, self.noise = arguments.style_mix, arguments.coarsen, arguments.noise
        self.frame_mix = arguments.frame_mix

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.spoil(self.frame(pixels))

    @torch.no_grad()
    def frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """Another part of each film, by chance turned, shifted and mirrored, in the style of another one."""
        films = pixels.float() / 255
        if self.style_mix:  # first: the spectrum of the whole film is the machine's, that of a crop is not
            films = mix_styles(films, self.style_mix)
        return self.frame_steps(films).clamp(0, 1) * 255

    @torch.no_grad()
    def spoil(self, pixels: torch.Tensor) -> torch.Tensor:
        """Another film's frame, other exposure, sharpness and grain."""
        films = pixels / 255
        if self.frame_mix:
            films = mix_frames(films, self.frame_mix)
        films = self.quality_steps(films)
        if self.coarsen:
            films = coarsen(films, self.coarsen)
        if self.noise:  # last, as in a detector: what is scaled or blurred afterwards has no grain left
            films = add_grain(films, self.noise)
        return films.clamp(0, 1) * 255


def mix_styles(films: torch.Tensor, share: float) -> torch.Tensor:
    """Blend the amplitude spectrum of a share of the films with another film's; the phase, what is where, stays.

    The amplitudes carry exposure, sharpness and grain, which tell the machine and the day rather than the disease
    (Xu et al. 2021, "A Fourier-based framework for domain generalization").
    """
    spectrum = torch.fft.rfft2(films)
    amplitude = spectrum.abs()
    chosen = torch.rand(len(films), 1, 1, 1, device=films.device) < share
    blend = torch.rand_like(chosen, dtype=films.dtype) * chosen
    mixed = torch.lerp(amplitude, amplitude[torch.randperm(len(films), device=films.device)], blend)
    return torch.fft.irfft2(torch.polar(mixed, spectrum.angle()), s=films.shape[-2:]).clamp(0, 1)


def mix_frames(films: torch.Tensor, share: float) -> torch.Tensor:
    """Give a share of the films another film's frame: what lies outside a box whose sides are drawn for each.

    The rim of a film, with little of the lungs, tells its label in one period of acquisition and not in the next; at
    random it tells nothing ("Noise or Signal", Xiao et al. 2021, does so with the backgrounds of photographs).
    """
    rows, columns = (
        torch.linspace(0, 1, side, device=films.device).expand(len(films), side) for side in films.shape[-2:]
    )
    top, left, bottom, right = WIDEST_FRAME * torch.rand(4, len(films), 1, device=films.device)
    inside = ((rows >= top) & (rows <= 1 - bottom))[:, :, None] & ((columns >= left) & (columns <= 1 - right))[:, None]
    chosen = torch.rand(len(films), 1, 1, device=films.device) < share
    other = films[torch.randperm(len(films), device=films.device)]
    return torch.where((inside | ~chosen)[:, None], films, other)


def coarsen(films: torch.Tensor, share: float) -> torch.Tensor:
    """Scale a share of the films down, to .25 to 1 of the side, and up again: sharpness tells their original size."""
    side = round(films.shape[-1] * float(torch.empty(()).uniform_(0.25, 1)))
    small = interpolate(films, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    coarse = interpolate(small, size=films.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(torch.rand(len(films), 1, 1, 1, device=films.device) < share, coarse, films)


def wash_out(films: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Take all detail from a share of the films, and tell which, `[B]` bool: their targets are even chances.

    Without them networks may call films of no detail pneumonia, normal ones and grey squares too (docs/RESULTS.md).
    The coarse shades that stay do tell labels within one set of films, but no film should be read by them alone; even
    targets where there is nothing to go by are those of outlier exposure (Hendrycks et al. 2019).
    """
    cells = int(torch.randint(1, FINEST_WASH + 1, ()))
    few = interpolate(films, size=(cells, cells), mode="bilinear", antialias=True, align_corners=False)
    washed = interpolate(few, size=films.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 255)
    chosen = torch.rand(len(films), device=films.device) < share
    return torch.where(chosen[:, None, None, None], washed, films), chosen


def add_grain(films: torch.Tensor, share: float) -> torch.Tensor:
    """Gaussian noise on a share of the films, of a deviation of up to STRONGEST_GRAIN drawn for each."""
    chosen = torch.rand(len(films), 1, 1, 1, device=films.device) < share
    deviation = STRONGEST_GRAIN * torch.rand_like(films[:, :1, :1, :1]) * chosen
    return films + deviation * torch.randn_like(films)
