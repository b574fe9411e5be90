import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EfficientNetImageProcessorPil, ViTImageProcessorPil

from pneumo_hf.imaging.processor import Normalize, make_image_processor, resize_film
from tests.conftest import make_film


@pytest.mark.parametrize("shape", [(80, 96), (224, 224), (500, 731)])
def test_cached_pixels_normalised_later_are_the_pipelines(shape: tuple[int, int]) -> None:
    processor = ViTImageProcessorPil(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    film = Image.fromarray(make_film(1, pneumonia=True, size=shape))
    usual = np.asarray(processor(film.convert("RGB"))["pixel_values"])
    cached = torch.from_numpy(resize_film(film, processor))[None]
    assert cached.shape == (1, 1, 224, 224)
    assert cached.dtype == torch.uint8
    assert np.abs(Normalize(processor)(cached).numpy() - usual).max() < 1e-6


def test_normalised_pixels_lie_as_the_network_reads_them() -> None:
    processor, films = ViTImageProcessorPil(), torch.arange(2 * 8 * 8, dtype=torch.uint8).reshape(2, 1, 8, 8)
    last = Normalize(processor, torch.channels_last)(films)
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert torch.equal(last, Normalize(processor)(films)) and Normalize(processor)(films).is_contiguous()


def test_the_whole_film_in_a_square_with_the_checkpoints_own_mean(tmp_path) -> None:
    ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(tmp_path)
    processor = make_image_processor(tmp_path, 160)
    assert (processor.size["height"], processor.size["width"]) == (160, 160)
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])


def test_an_efficientnet_that_normalises_twice_keeps_its_scale(tmp_path) -> None:
    own = EfficientNetImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    own.save_pretrained(tmp_path)
    film = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    ours = make_image_processor(tmp_path, 64)
    expected = np.asarray(own(film)["pixel_values"])
    assert np.abs(np.asarray(ours(film)["pixel_values"]) - expected).max() < 1e-3
