"""One checkpoint that scores films as the stock pipeline does."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageClassification

from pneumo_hf.data.files import is_missing
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import Normalize, load_image_processor
from pneumo_hf.inference import hidden_head  # noqa: F401 - registers the one architecture of our own
from pneumo_hf.inference.clinical import load_clinical
from pneumo_hf.inference.folding import folded
from pneumo_hf.inference.integrity import assert_buildable, assert_finite_weights, assert_whole
from pneumo_hf.inference.onnx import OnnxModel, exported_file
from pneumo_hf.inference.outliers import load_detector
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.labels import LABELS, NEGATIVE, Task

MOST_LABELS = 20  # of a checkpoint that may be meant; ImageNet's have a thousand

# What transformers raises for a checkpoint that it cannot load, whose config.json may say anything.
UNLOADABLE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, ImportError, RuntimeError, TypeError, KeyError, AttributeError),
    *(SafetensorError, StrictDataclassError, OverflowError, IndexError),
)


class Predictor(Scorer):
    """Score films with a checkpoint, as the stock pipeline does, and decide at the checkpoint's own threshold.

    Scores come from `network`, which is folded when it is loaded; explanations and exports are of `model`, as the
    checkpoint has it.

    Args:
        checkpoint: a folder or Hub id of an image classifier of NORMAL and others, in any case of letters.
        device: of torch; by default the GPU where there is one.
        batch_size: films at once; by default 32 on a GPU and 16 on a CPU.
        flip: average the logits with those of the mirrored film (test-time augmentation).
        backend: "torch", or "onnx" for ONNX Runtime on the CPU, by what `python -m pneumo_hf export` wrote; else
            exported at first use into `~/.cache/pneumo_hf/onnx`, and kept there.
        label_map: what the checkpoint's labels are, where they are named otherwise: `{"LABEL_1": "PNEUMONIA", ...}`.

    Raises:
        InputError: the checkpoint cannot be loaded or has other labels.

    >>> predictor = Predictor("models/pneumo-efficientnet")
    >>> predictor(["docs/film.jpeg"])[0]["flag"]
    'review'
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        batch_size: int | None = None,
        flip: bool = False,
        backend: Literal["torch", "onnx"] = "torch",
        label_map: Mapping[str, str] | None = None,
    ):
        self.name, self.members, self.flip = str(checkpoint), [self], flip
        if is_missing(Path(checkpoint)):
            raise InputError(f"there is no checkpoint {checkpoint}")  # before the Hub is asked for it again and again
        assert_buildable(checkpoint)
        try:
            self.model, loaded = AutoModelForImageClassification.from_pretrained(
                checkpoint,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they can be named
            )
            self.image_processor = load_image_processor(checkpoint)
        except UNLOADABLE as error:
            raise InputError(why_not_loaded(checkpoint, error)) from error
        assert_whole(checkpoint, loaded)
        assert_finite_weights(checkpoint, self.model)
        config = self.model.config.to_dict()
        task, self.order = read_labels(checkpoint, config, label_map or {})
        self.settings = replace(CheckpointSettings.from_config(config, f"{checkpoint}/config.json"), task=task)
        self.detector, self.clinical = load_detector(checkpoint), load_clinical(checkpoint)
        self.onnx = self._exported(checkpoint) if backend == "onnx" else None
        self.device = usable_device("cpu" if self.onnx else device)
        self.batch_size = batch_size or (16 if self.device.type == "cpu" else 32)
        self.normalize = Normalize(self.image_processor, torch.channels_last)
        self.network = self.model.eval()
        if not self.onnx:
            noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(256, 256), dtype=np.uint8))
            try:
                example = self.normalize(torch.from_numpy(self.resize(noise)[0][None]))
                self.network = folded(self.model, example, padding=self.device.type == "cpu")
                with torch.inference_mode():
                    tried = self.network(pixel_values=example).logits
            except UNLOADABLE as error:  # what the files say of sizes and resizing does not go together
                why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise InputError(f"{checkpoint} cannot score a film: {why}") from error
            if not torch.isfinite(tried).all():
                raise InputError(f"{checkpoint} gives no number for a film: its configuration is damaged")
        for module in (self.model, self.network):
            module.to(self.device, memory_format=torch.channels_last)
        self.normalize.to(self.device)

    def _exported(self, checkpoint: str | Path) -> OnnxModel:
        path = exported_file(checkpoint)
        if path is None:
            from pneumo_hf.inference.onnx_export import kept_export  # with the exporter: where it is needed

            path = kept_export(self.model, self.image_processor)
        return OnnxModel(path, checkpoint, self.model, self.image_processor)

    def use_labels(self, labels: Sequence[str]) -> None:
        """Give the labels in this order from now on.

        Raises:
            InputError: the checkpoint has others.
        """
        own = self.task.labels
        if set(own) != set(labels):
            raise InputError(f"{self.name} has the labels {', '.join(own)}, not {', '.join(labels)}")
        self.order = [self.order[own.index(label)] for label in labels]
        self.settings.task = Task(tuple(labels), self.task.positive)

    def logits(self, *pixels: torch.Tensor) -> np.ndarray:
        return self._forward(pixels[0], output_hidden_states=False)[0]

    def predict_with_outliers(self, *pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        if self.detector is None:
            return self._without_distances(*pixels)
        logits, features = self._forward(pixels[0], output_hidden_states=True)
        return logits, self.detector.distances(features)

    def features(self, pixels: torch.Tensor) -> np.ndarray:
        """Compute what the detector sees of films `[B, 1, H, W]` uint8: every stage's channels, averaged, `[B, D]`."""
        return self._forward(pixels, output_hidden_states=True)[1]

    def _forward(self, pixels: torch.Tensor, output_hidden_states: bool) -> tuple[np.ndarray, Any]:
        logits, features = self._network(pixels, output_hidden_states)
        if self.flip:
            logits = (logits + self._network(pixels.flip(-1), output_hidden_states=False)[0]) / 2
        return logits[:, self.order], features

    def _network(self, pixels: torch.Tensor, output_hidden_states: bool) -> tuple[np.ndarray, Any]:
        if self.onnx:
            return self.onnx(pixels.numpy(), output_hidden_states)
        with torch.inference_mode(), full_float32():
            pixel_values = self.normalize(pixels.to(self.device))
            output = self.network(pixel_values=pixel_values, output_hidden_states=output_hidden_states)
        features = pooled_stages(output.hidden_states).cpu().numpy() if output_hidden_states else None
        return output.logits.float().cpu().numpy(), features


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute in full float32, so that a score from a GPU is the score from a CPU.

    By default a GPU's convolutions take TF32; after a training with `--torch_compile` everything does.
    """
    backends = torch.backends
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    with _PRECISION.lock:  # the switches are of the process, and several threads may score in it
        if not _PRECISION.entered:
            whole, found = backends.fp32_precision, [operation.fp32_precision for operation in operations]
            _PRECISION.before = ["none" if precision == whole else precision for precision in found]
            for operation in operations:
                operation.fp32_precision = "ieee"
        _PRECISION.entered += 1
    try:
        yield
    finally:
        with _PRECISION.lock:
            _PRECISION.entered -= 1
            if not _PRECISION.entered:
                for operation, precision in zip(operations, _PRECISION.before, strict=True):
                    operation.fp32_precision = precision


class _PRECISION:
    """Of `full_float32`: how many threads are in it, and what was before the first (none: as the whole has it)."""

    lock, entered, before = threading.Lock(), 0, []


def read_labels(
    checkpoint: str | Path, config: Mapping[str, Any], label_map: Mapping[str, str]
) -> tuple[Task, list[int]]:
    """Return the labels of a checkpoint, and the columns of its logits in the order of those labels.

    Args:
        config: its `config.json`, whose `id2label` names the labels in any case of letters.
        label_map: their other names.

    Raises:
        InputError: NORMAL is not among the labels, one is there twice, or several may be true of one film.
    """
    found = [str(name) for _, name in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    names = [name.strip().upper() for name in found]
    theirs = {name.strip().lower(): label.upper() for name, label in label_map.items()}
    renamed = [theirs.get(name.lower(), name) for name in names]
    if len(names) == 2 or any(theirs.get(name.lower()) == NEGATIVE for name in names):  # else it is of the data alone
        names = renamed
    if NEGATIVE not in names or len(set(names)) < len(names) or len(names) < 2:
        why = f"{checkpoint} is no classifier of {' and '.join(LABELS)}: its labels are {', '.join(found[:5])}"
        if len(found) <= MOST_LABELS:
            why += "; predict and evaluate take their other names: --label_map NAME=NORMAL,NAME=PNEUMONIA"
        raise InputError(why)
    if config.get("problem_type") == "multi_label_classification":
        raise InputError(
            f"{checkpoint} gives several labels to one film, {', '.join(found[:5])}: that is not read here"
        )
    task = Task.of(names)
    return task, [names.index(label) for label in task.labels]


def usable_device(device: str | None) -> torch.device:
    """Try a device, by default the GPU where there is one.

    Raises:
        InputError: it cannot be used here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
        return found
    except (AssertionError, RuntimeError, ImportError) as error:  # torch's words for: not here
        raise InputError(f"device {device} cannot be used here: {str(error).splitlines()[0][:100]}") from error


def pooled_stages(hidden_states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Average the channels of every stage, a map `[B, C, H, W]` or tokens `[B, N, C]`, over the picture: `[B, D]`."""
    return torch.cat([stage.float().mean(dim=(2, 3) if stage.ndim == 4 else 1) for stage in hidden_states], dim=1)


def why_not_loaded(checkpoint: str | Path, error: Exception) -> str:
    """Say in one line why transformers cannot load a checkpoint."""
    if "trust_remote_code" in str(error):
        return f"{checkpoint} brings code of its own, which is not run here"
    if isinstance(error, ImportError):
        library = "timm" if "timm" in str(error) else str(error).strip().splitlines()[0]
        return f"{checkpoint} needs a library that is not installed here: {library} (pip install 'pneumo_hf[timm]')"
    if isinstance(error, SafetensorError):
        return f"the weights of {checkpoint} are damaged or not downloaded whole (a Git LFS pointer?): {error}"
    folder = Path(checkpoint)
    if folder.is_dir():
        missing = [name for name in ("config.json", "preprocessor_config.json") if not (folder / name).exists()]
        missing += (
            [] if any(folder.glob("*model*.safetensors")) or any(folder.glob("*.bin")) else ["model.safetensors"]
        )
        why = f"{', '.join(missing)} missing" if missing else str(error).strip().splitlines()[0]
        return f"cannot load {checkpoint}: {why} (train_hf.py writes whole checkpoint folders)"
    return f"cannot load {checkpoint}: neither a checkpoint folder, as train_hf.py writes, nor a Hub id within reach"
