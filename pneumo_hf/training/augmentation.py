"""The only randomness that films meet: augmentation in batches, on the device, by kornia."""

import kornia.augmentation as K
import torch
from torch import nn

from pneumo_hf.config import XrayTrainingArguments


class XrayAugment(nn.Module):
    """Random crops, turns, shifts, exposure and blur of grey films, `[B, 1, H, W]` in 0..255 -> the same.

    Strong RandomResizedCrop with exposure jitter is what carries over to films of another acquisition period; no
    vertical flips and no quarter turns, which no film has.
    """

    def __init__(self, arguments: XrayTrainingArguments, size: tuple[int, int]):
        super().__init__()
        steps = [
            K.RandomAffine(degrees=arguments.rotation, translate=(arguments.shift, arguments.shift), p=0.8),
            K.RandomResizedCrop(size, scale=(arguments.crop_scale, 1.0), ratio=(0.75, 4 / 3)),
        ]
        if arguments.horizontal_flip:
            steps.append(K.RandomHorizontalFlip(p=arguments.horizontal_flip))
        if arguments.jitter:
            low, high = 1 - arguments.jitter, 1 + arguments.jitter
            steps += [K.RandomBrightness((low, high), p=0.8), K.RandomContrast((low, high), p=0.8)]
            steps += [K.RandomGamma((low, 1 / low), p=0.8)]
        if arguments.blur:
            steps.append(K.RandomGaussianBlur((7, 7), (0.3, 2.0), p=arguments.blur))
        self.steps = K.AugmentationSequential(*steps, data_keys=["input"])

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.steps(pixels.float() / 255).clamp(0, 1) * 255
