"""Stage one: the classifier alone, on features of the frozen backbone that are computed once."""

import logging

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.runtime import processes
from pneumo_hf.training.head import catch_features, classifier_head
from pneumo_hf.training.sharding import whole_afterwards
from pneumo_hf.training.stage import label_weights, memory_format, of_stage
from pneumo_hf.training.trainer import XrayTrainer

logger = logging.getLogger(__name__)


def train_probe(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
) -> list[dict]:
    """Train the classifier alone, on features that are computed once; returns the log."""
    logger.info("stage 1: the classifier on the features of the frozen backbone, %d epochs", arguments.probe_epochs)
    model.to(arguments.device)
    normalize = Normalize(image_processor, memory_format(arguments)).to(arguments.device)
    features = {
        split: FeatureDataset(films[split], extract_features(model, films[split], normalize, arguments))
        for split in ("train", "validation")
    }
    # The step schedule is of stage two, whose epochs it counts; every other one is stretched to the stage it is in.
    own = {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": None} if arguments.lr_scheduler_type == "step" else {}
    with whole_afterwards(classifier_head(model)) as head:
        trainer = XrayTrainer(
            model=ProbeModel(head, model.config),
            args=of_stage(
                "stage1",
                arguments,
                num_train_epochs=arguments.probe_epochs,
                learning_rate=arguments.probe_learning_rate,
                save_strategy="no",
                load_best_model_at_end=False,
                gradient_accumulation_steps=1,
                bf16=False,
                torch_compile=False,
                activation_checkpointing=False,
                max_steps=-1,
                **own,
            ),
            train_dataset=features["train"],
            eval_dataset=features["validation"],
            prepare=nn.Identity(),
            augment=None,
            class_weights=label_weights(films, arguments),
            stage="stage1",
        )
        trainer.train()
    return trainer.state.log_history


class ProbeModel(nn.Module):
    """A model's head, the very modules, on features `[B, F]`."""

    accepts_loss_kwargs = False

    def __init__(self, head: nn.Module, config: PretrainedConfig):
        super().__init__()
        self.head, self.config = head, config  # Trainer asks it, with label smoothing, what kind of labels there are

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(pixel_values))


class FeatureDataset(torch.utils.data.Dataset):
    """Features `[N, F]` in the place of pixels."""

    def __init__(self, films: FilmDataset, features: torch.Tensor):
        self.features, self.labels = features, torch.from_numpy(films.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[indices], "labels": self.labels[indices]}


@torch.inference_mode()
def extract_features(
    model: PreTrainedModel, films: FilmDataset, normalize: Normalize, arguments: XrayTrainingArguments
) -> torch.Tensor:
    """Compute what the backbone makes of every film, in evaluation mode: `[N, F]` float32 on the CPU.

    Every process that accelerate launched does a part, and has all of them afterwards.
    """
    model.eval()
    batch_size, features, group = arguments.per_device_eval_batch_size, [], processes(str(arguments.device))
    mine = group.part(len(films), batch_size)
    for start in tqdm(mine[::batch_size], desc="Extracting features", unit="batch", disable=not group.is_main):
        batch = films.__getitems__(range(start, min(start + batch_size, mine.stop)))
        with catch_features(model) as caught:
            model(pixel_values=normalize(batch["pixel_values"].to(arguments.device)))
        features.append(caught[0].float().cpu())
    return torch.cat([part for parts in group.gather(features) for part in parts]).clone()
