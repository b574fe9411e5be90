"""An ensemble's answers as targets, so that one checkpoint of the stock pipeline is trained on what several know."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import load_image_processor, uses_clahe
from pneumo_hf.inference.predictor import Predictor, why_not_loaded
from pneumo_hf.labels import LABELS


class Teachers(nn.Module):
    """Grey films `[B, 1, H, W]` in 0..255, as cropped for the student -> shares of the labels `[B, C]`.

    H and W are those of the teacher with the largest films, if larger than the student's.

    The teachers see the very part of the film that the student sees, and the student follows them for long
    ("function matching", Beyer et al. 2022). Their logits, calibrated each on its own validation films, are averaged.
    Their networks are folded, as for scoring: they cost more than the student.

    Raises:
        InputError: a checkpoint cannot be loaded, has other labels than the student, or was trained on films with
            another contrast.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        clahe: bool,
        autocast: torch.dtype | None,
        device: str = "cpu",
        labels: Sequence[str] = LABELS,
    ):
        super().__init__()
        teachers = [Predictor(checkpoint, device=device) for checkpoint in checkpoints]
        for teacher in teachers:
            teacher.use_labels(labels)
            if uses_clahe(teacher.image_processor) != clahe:
                raise InputError(f"{teacher.name} and the student differ in clahe: they must see the same films")
        self.models = nn.ModuleList(teacher.network for teacher in teachers)
        self.normalizers = nn.ModuleList(teacher.normalize for teacher in teachers)
        self.sizes = [teacher.image_processor.size for teacher in teachers]
        self.orders = [teacher.order for teacher in teachers]
        self.autocast = autocast

    @torch.no_grad()
    def forward(self, films: torch.Tensor) -> torch.Tensor:
        logits = []
        for model, normalize, size, order in zip(self.models, self.normalizers, self.sizes, self.orders, strict=True):
            model.eval()
            shape = (size["height"], size["width"])
            if films.shape[-2:] == shape:
                seen = films
            else:
                seen = interpolate(films, shape, mode="bilinear", antialias=True, align_corners=False)
            with torch.autocast(films.device.type, self.autocast, enabled=self.autocast is not None):
                answer = model(pixel_values=normalize(seen).contiguous(memory_format=torch.channels_last)).logits
            logits.append(answer[:, order].float())
        return torch.stack(logits).mean(dim=0).softmax(dim=1)


def finest_processor(checkpoints: Sequence[str], student: BaseImageProcessor) -> BaseImageProcessor | None:
    """Return the image processor of the teacher who takes the largest films; None if the student's are as large.

    A teacher who is shown a film that was shrunk for its student knows less of it (docs/evaluation.md).

    Raises:
        InputError: a checkpoint cannot be loaded.
    """
    finest = student
    for checkpoint in checkpoints:
        try:
            own = load_image_processor(checkpoint)
        except (OSError, ValueError) as error:
            raise InputError(why_not_loaded(checkpoint, error)) from error
        if (own.size.height or 0) > finest.size.height:  # one without a height is refused by Teachers
            finest = own
    return None if finest is student else finest
