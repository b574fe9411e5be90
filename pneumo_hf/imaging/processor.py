"""The one image processor of every checkpoint, and the same arithmetic in batches on the device."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import equalize
from pneumo_hf.imaging.resizing import Resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_image_processor(checkpoint: str | Path) -> BaseImageProcessor:
    """Load the saved image processor of a checkpoint in its PIL form, which caches and scores are made with.

    Raises:
        InputError: its mean, deviation or scale are no such numbers.
    """
    image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil", trust_remote_code=False)
    _assert_numbers(image_processor, f"{checkpoint}/preprocessor_config.json")
    return image_processor


def _assert_numbers(image_processor: BaseImageProcessor, source: str) -> None:
    """Refuse means and deviations that no film can be normalised by."""

    def are_numbers(values: object, above: float = -math.inf) -> bool:
        return isinstance(values, list | tuple) and all(
            type(value) in (int, float) and above < value < math.inf for value in values
        )

    for key, above, wanted in (
        ("image_mean", -math.inf, "three finite numbers"),
        ("image_std", 0.0, "three finite numbers above 0"),
    ):
        values = getattr(image_processor, key)
        if not are_numbers(values, above) or len(values) != 3:
            raise InputError(f"{source}: {key} is {str(values)[:60]}, and should be {wanted}")
    if not are_numbers([image_processor.rescale_factor], 0.0):
        raise InputError(f"{source}: rescale_factor is {image_processor.rescale_factor}, and should be above 0")


def make_image_processor(checkpoint: str | Path | None, image_size: int, clahe: bool = False) -> ViTImageProcessorPil:
    """Make a fixed square of the whole film, with the checkpoint's own mean and standard deviation.

    The crops of the ConvNext and EfficientNet processors cut the lungs' edges, so theirs is not used. `None` is for a
    network trained from scratch: ImageNet's mean and deviation. `clahe` is kept for `resize_film`; the stock pipeline
    knows nothing of it, so its callers equalise the film themselves: `load_xray(path, clahe=True)`.
    """
    mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    if checkpoint is not None:
        own = load_image_processor(checkpoint)
        mean, std = own.image_mean, own.image_std
        if own.to_dict().get("include_top"):  # EfficientNet's own normalises by the deviation twice
            std = [value * value for value in std]
    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size}, image_mean=list(mean), image_std=list(std), clahe=clahe
    )


def resize_film(film: Image.Image, image_processor: BaseImageProcessor) -> np.ndarray:
    """Resize as the processor does: `[1, H, W]` uint8. Normalised later it is what the stock pipeline feeds."""
    if resize := fixed_resize(image_processor):
        return resize(film)
    if uses_clahe(image_processor):
        film = equalize(film)
    return image_processor(film, do_rescale=False, do_normalize=False)["pixel_values"][0]


def fixed_resize(image_processor: BaseImageProcessor) -> Resize | None:
    """Return what a processor does to a film's size where that is one call of Pillow, as with all that are made here.

    The processor makes the same call, with a way there and back by arrays that takes a quarter of its time.
    """
    size, resample = image_processor.size, image_processor.resample
    if type(image_processor) is ViTImageProcessorPil and image_processor.do_resize and size.height and resample:
        return Resize(size.width, size.height, int(resample), uses_clahe(image_processor))
    return None


def uses_clahe(image_processor: BaseImageProcessor) -> bool:
    return bool(image_processor.to_dict().get("clahe"))


class Normalize(torch.nn.Module):
    """The processor's rescaling and normalising, on the device: `[B, 1, H, W]` in 0..255 -> `[B, 3, H, W]` float.

    Args:
        memory_format: of what comes out; that of the network's weights saves its first layer a conversion each way.
    """

    def __init__(
        self, image_processor: BaseImageProcessor, memory_format: torch.memory_format = torch.contiguous_format
    ):
        super().__init__()
        self.memory_format, shape = memory_format, (1, 3, 1, 1)
        self.rescale_factor = image_processor.rescale_factor
        self.register_buffer("mean", torch.tensor(image_processor.image_mean).view(shape))
        self.register_buffer("std", torch.tensor(image_processor.image_std).view(shape))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixel_values = (pixels.float() * self.rescale_factor - self.mean) / self.std
        return pixel_values.contiguous(memory_format=self.memory_format)
