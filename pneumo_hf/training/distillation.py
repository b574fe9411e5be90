"""An ensemble's answers as targets, so that one checkpoint of the stock pipeline learns what several know."""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import AutoConfig

from pneumo_hf.config import LABELS, InputError, ModelArguments, XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.evaluation.ensemble import read_predictions
from pneumo_hf.imaging.processor import uses_clahe
from pneumo_hf.inference.predictor import Predictor, why_not_loaded
from pneumo_hf.training.backbones import EMBEDDED
from pneumo_hf.training.models import BASELINE

logger = logging.getLogger(__name__)


def assert_saw_no_more(model: ModelArguments, training: XrayTrainingArguments, films: dict[str, FilmDataset]) -> None:
    """Stop where a checkpoint, gone on from or taught by, has learnt films that the run is validated or tested on.

    Raises:
        InputError: a checkpoint of the same data held out other films.
    """
    names = {split: set(part.table["file_name"]) for split, part in films.items()}
    for checkpoint in dict.fromkeys([model.model_name_or_path, *(training.teachers or ())]):
        if checkpoint in (EMBEDDED, BASELINE):
            continue
        tables = [read_predictions(checkpoint, split) for split in ("validation", "test")]
        if None in tables:
            if _tells_pneumonia(checkpoint):
                message = "%s does not tell which films it held out: see to it that they are this run's"
                logger.warning(message, checkpoint)
            continue
        held_out = set().union(*tables)
        if held_out & set().union(*names.values()) and not names["validation"] | names["test"] <= held_out:
            raise InputError(
                f"{checkpoint} may have learnt films that this run holds out: train both with one split_seed, "
                "validation method and fraction (recipe.yaml has its own), or rename yours "
                "if other films only bear the same names"
            )


def _tells_pneumonia(checkpoint: str) -> bool:
    try:
        return LABELS[1] in AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).label2id
    except (OSError, ValueError) as error:
        raise InputError(why_not_loaded(checkpoint, error)) from error


class Teachers(nn.Module):
    """Grey films `[B, 1, H, W]` in 0..255, as framed for the student -> shares of the labels `[B, 2]`.

    The teachers look at the very part of the film that the student sees, and the student follows them for long
    ("function matching", Beyer et al. 2022). Their logits, calibrated each on its own validation films, are averaged.
    Their networks are folded, as for scoring: they cost more than the student.

    Raises:
        InputError: a checkpoint cannot be loaded, or was trained on films with another contrast than the student's.
    """

    def __init__(self, checkpoints: Sequence[str], clahe: bool, autocast: torch.dtype | None, device: str = "cpu"):
        super().__init__()
        teachers = [Predictor(checkpoint, device=device) for checkpoint in checkpoints]
        for teacher in teachers:
            if uses_clahe(teacher.image_processor) != clahe:
                raise InputError(f"{teacher.name} and the student differ in clahe: they must see the same films")
        self.models = nn.ModuleList(teacher.network for teacher in teachers)
        self.normalizers = nn.ModuleList(teacher.normalize for teacher in teachers)
        self.sizes = [teacher.image_processor.size for teacher in teachers]
        self.orders = [[1 - teacher.positive, teacher.positive] for teacher in teachers]
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
