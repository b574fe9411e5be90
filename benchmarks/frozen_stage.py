"""A classifier on a frozen backbone, ten epochs: `python benchmarks/frozen_stage.py`.

  ours   stage one as train_hf.py runs it: the backbone's features are computed once, the classifier learns from them;
  usual  the backbone frozen in Trainer, which runs it anew for every batch of every epoch. It reads the same pixel
         cache and keeps freed memory, with the same loss and rate; its films are laid out as the weights are, ours
         in channels_last.
Seconds from the decoded films to the trained classifier, validation after each epoch included. Both must reach the
same ROC AUC on the sample's official test films, to .002. Writes benchmarks/results/frozen_stage.json.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import ROOT, SAMPLE, median_ratio, parser, take_turns, write_result
from pneumo_hf.runtime import keep_freed_memory
from pneumo_hf.training.stages import ProbeModel, extract_features, train_probe
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config import Arguments, parse_args
from pneumo_hf.data.pixels import decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.models import load_model
from pneumo_hf.training.trainer import XrayTrainer

EPOCHS, TRAIN, VALIDATION, AGREEMENT = 10, 320, 80, 0.002


class FrozenBackbone:
    """One recipe's films, and the two ways to train a classifier on its frozen backbone."""

    def __init__(self, folder: Path):
        where = ["--output_dir", str(folder / "run"), "--cache_dir", str(folder), "--dataset", str(SAMPLE)]
        epochs = ["--probe_epochs", str(EPOCHS)]
        self.arguments: Arguments = parse_args(
            ["--config", str(ROOT / "configs" / "quickstart.yaml"), *epochs, *where]
        )
        _, image_processor = load_model(self.arguments[0], folder)
        films, _ = decode_splits(load_data(str(SAMPLE)), image_processor, self.arguments[1], seed=42)
        self.test = films.pop("test")
        random, counts = np.random.default_rng(0), {"train": TRAIN, "validation": VALIDATION}
        self.films = {
            split: films[split].select(random.permutation(len(films[split]))[:count])
            for split, count in counts.items()
        }
        self.models = {}

    def ours(self) -> float:
        model, image_processor = self._fresh()
        start = time.perf_counter()
        train_probe(model, image_processor, self.films, self.arguments[2])
        self.models["ours"] = model
        return time.perf_counter() - start

    def usual(self) -> float:
        model, image_processor = self._fresh()
        start = time.perf_counter()
        model.base_model.requires_grad_(False).eval()
        model.base_model.train = lambda mode=True: model.base_model  # Trainer sets it to train at every step
        arguments = self.arguments[2]
        XrayTrainer(
            model=model,
            args=replace(
                arguments,
                num_train_epochs=EPOCHS,
                learning_rate=arguments.probe_learning_rate,
                save_strategy="no",
                load_best_model_at_end=False,
            ),
            train_dataset=self.films["train"],
            eval_dataset=self.films["validation"],
            prepare=Normalize(image_processor),
            augment=None,
            class_weights=class_weights(self.films["train"].labels),
        ).train()
        self.models["usual"] = model
        return time.perf_counter() - start

    def test_auc(self) -> dict[str, float]:
        """Of the classifiers trained last; the backbone is the same, and runs once."""
        model, image_processor = self._fresh()
        normalize = Normalize(image_processor).to(self.arguments[2].device)
        features = extract_features(model.to(self.arguments[2].device), self.test, normalize, self.arguments[2])
        return {way: roc_auc_score(self.test.labels, scores(model, features)) for way, model in self.models.items()}

    def _fresh(self) -> tuple[PreTrainedModel, BaseImageProcessor]:
        set_seed(self.arguments[2].seed)
        model, image_processor = load_model(self.arguments[0], self.arguments[1].cache_dir)
        return model.to(memory_format=torch.channels_last), image_processor


@torch.inference_mode()
def scores(model: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    head: nn.Module = ProbeModel(model).cpu().eval()
    logits = head(features).logits
    return logits[:, 1] - logits[:, 0]


def main(repeats: int) -> None:
    keep_freed_memory()  # as train_hf.py does
    with tempfile.TemporaryDirectory() as folder:
        stage = FrozenBackbone(Path(folder))
        rows = take_turns({"ours": stage.ours, "usual": stage.usual}, repeats)
        auc = stage.test_auc()
    facts = {"epochs": EPOCHS, "train_films": TRAIN, "validation_films": VALIDATION, "unit": "s"}
    write_result("frozen_stage", {"frozen_stage_speedup": median_ratio(rows["usual"], rows["ours"])}, rows,
                 test_roc_auc=auc, **facts)  # fmt: skip
    assert abs(auc["ours"] - auc["usual"]) <= AGREEMENT, auc


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)
