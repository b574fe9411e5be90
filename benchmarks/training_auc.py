"""Whether the quick training step learns what the usual one does: `python benchmarks/training_auc.py`.

EfficientNet-Lite0, the same films in the same order, no augmentation, one rate, cosine schedule; trained by
  ours   the trainer of stage two: pixel cache, channels_last, bf16 where the CPU has it;
  usual  imagefolder, set_transform with the image processor, Trainer with two workers, float32.
Each is then scored on the official test films of the sample. After so few steps a seed's area moves by a hundredth
with any rounding: a difference is to be read beside the spread of the seeds.
Writes benchmarks/results/training_auc.json.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import BF16, SAMPLE, parser, write_films, write_result
from pneumo_hf.runtime import keep_freed_memory
from sklearn.metrics import roc_auc_score
from training_step import arguments_of, stage_two, usual_trainer
from transformers import PreTrainedModel, set_seed

from pneumo_hf.config import Arguments
from pneumo_hf.data.files import read_film
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.training.models import load_model

FILMS, EPOCHS, AGREEMENT = 320, 3, 0.005
SAME = ["--layer_lr_decay", "1", "--ema_decay", "0", "--class_weights", "false", "--freeze_batch_norm", "false"]
SAME += ["--dropout", "0"]  # whose draws the usual way's workers would shift


def ours(arguments: Arguments, films: FilmDataset) -> PreTrainedModel:
    trainer = stage_two(arguments, films)
    trainer.augment = None
    trainer.train()
    return trainer.model


def usual(arguments: Arguments, folder: Path) -> PreTrainedModel:
    model_args, data_args, training_args = arguments
    set_seed(training_args.seed)
    model, image_processor = load_model(model_args, data_args.cache_dir)
    names = ("seed", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
    same = {name: getattr(training_args, name) for name in names}
    usual_trainer(model, image_processor, folder, use_cpu=training_args.use_cpu, **same).train()
    return model


@torch.inference_mode()
def test_area(model: PreTrainedModel, films: FilmDataset, normalize: Normalize) -> float:
    model.eval()
    batches = (films.__getitems__(range(start, min(start + 32, len(films)))) for start in range(0, len(films), 32))
    logits = [model(normalize(batch["pixel_values"].to(model.device))).logits.float().cpu() for batch in batches]
    return float(roc_auc_score(films.labels, np.diff(torch.cat(logits).numpy())[:, 0]))


def main(seeds: int) -> None:
    keep_freed_memory()  # as train_hf.py does
    rows = {"ours": [], "usual": []}
    with tempfile.TemporaryDirectory() as root:
        folder, sample = Path(root), load_data(str(SAMPLE))
        chosen = sample["train"].shuffle(seed=0).select(range(FILMS))
        write_films(folder / "films", [(read_film(film["image"]), film["label"]) for film in chosen])
        for seed in range(1, seeds + 1):
            arguments = arguments_of("lite0", "efficientnet-lite0", folder, *SAME, "--seed", str(seed))
            arguments = (*arguments[:2], replace(arguments[2], num_train_epochs=EPOCHS))
            _, image_processor = load_model(arguments[0], folder)
            (films, _), (test, _) = (
                decode_films(table, image_processor, folder)
                for table in (load_data(str(folder / "films"))["train"], sample["test"])
            )
            normalize = Normalize(image_processor).to(arguments[2].device)
            for way, model in {"ours": ours(arguments, films), "usual": usual(arguments, folder)}.items():
                rows[way].append(test_area(model, test, normalize))
            print({way: round(found[-1], 4) for way, found in rows.items()}, flush=True)
    means = {way: statistics.mean(found) for way, found in rows.items()}
    ratios = {"training_auc_vs_usual": means["ours"] / means["usual"]}
    write_result("training_auc", ratios, rows, mean=means, films=FILMS, epochs=EPOCHS, bf16=BF16, unit="ROC AUC")
    assert means["ours"] >= means["usual"] - AGREEMENT, means


if __name__ == "__main__":
    main(parser(__doc__, repeats=3).parse_args().repeats)
