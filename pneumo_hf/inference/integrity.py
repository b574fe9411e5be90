"""Whether a checkpoint is whole: what is missing, strange or not a number in it is said, and never guessed."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pneumo_hf.errors import InputError

HARMLESS = ("num_batches_tracked", "position_ids", "relative_position_index")  # counters and tables that are computed


DEPTHS = ("depth", "layer", "block", "repeat")  # in the names of settings that say how many layers there are


def assert_buildable(checkpoint: str | Path) -> None:
    """Refuse a configuration of more layers than the weights have tensors: to build them may never end.

    Raises:
        InputError: naming the setting. What cannot be read is left to whoever loads the checkpoint.
    """
    try:
        with safe_open(Path(checkpoint) / "model.safetensors", "pt") as weights:
            tensors = len(weights.keys())
        config = json.loads((Path(checkpoint) / "config.json").read_text())
    except (OSError, ValueError, SafetensorError):
        return
    for key, value in config.items() if isinstance(config, dict) else ():
        numbers = [number for number in _leaves(value) if type(number) in (int, float)]
        if any(word in key for word in DEPTHS) and any(abs(number) > tensors for number in numbers):
            raise InputError(
                f"{checkpoint}/config.json: {key} is {str(value)[:40]}, but the weights have {tensors} tensors in all"
            )


def _leaves(value: Any) -> Iterator[Any]:
    for item in value if isinstance(value, list) else [value]:
        yield from _leaves(item) if isinstance(item, list) else [item]


def assert_whole(checkpoint: str | Path, loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those of its architecture.

    Args:
        loaded: the loading info of `from_pretrained(..., ignore_mismatched_sizes=True, output_loading_info=True)`.

    Raises:
        InputError: naming the first tensor that is missing, of another shape, or of no use.
    """
    if missing := sorted(key for key in loaded["missing_keys"] if not key.endswith(HARMLESS)):
        raise InputError(f"{checkpoint} has no weights for {len(missing)} of its tensors, {missing[0]} among them")
    if mismatched := sorted(loaded["mismatched_keys"]):
        key, found, wanted = mismatched[0]
        raise InputError(
            f"the weights of {checkpoint} are not of its config.json: {key} is {list(found)}, and should be "
            f"{list(wanted)} ({len(mismatched)} such tensors)"
        )
    if unexpected := sorted(key for key in loaded["unexpected_keys"] if not key.endswith(HARMLESS)):
        raise InputError(
            f"the weights of {checkpoint} are not of its config.json: {len(unexpected)} tensors have no place in it, "
            f"{unexpected[0]} among them"
        )


def assert_finite_weights(checkpoint: str | Path, model: nn.Module) -> None:
    """Refuse weights that are not numbers.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise InputError(f"the weights of {checkpoint} are damaged: {name} has values that are not finite numbers")


def is_number(value: object, lowest: float = -math.inf, highest: float = math.inf) -> bool:
    """Return whether a value, as JSON gives it, is a finite number from `lowest` to `highest`."""
    return type(value) in (int, float) and math.isfinite(value) and lowest <= value <= highest  # type: ignore


def assert_settings(config: Mapping[str, Any], keys: Mapping[str, str], source: str) -> None:
    """Refuse settings that cannot be decided by.

    A stranger's checkpoint may hold anything under one of these names: there only a number that is none is refused.

    Args:
        config: what `config.json` says.
        keys: field -> key of `CheckpointSettings`.
        source: by which the file is named.

    Raises:
        InputError: naming file and key.
    """
    threshold, points, limits, temperature, training = (
        config.get(keys[name])
        for name in ("threshold", "operating_points", "conformal_limits", "temperature", "training_data")
    )
    own = sum(key in config for key in keys.values()) > 2

    def check(key: str, value: object, wanted: str, right: bool) -> None:
        if value is not None and not right and (own or isinstance(value, float)):
            raise InputError(f"{source}: {key} is {str(value)[:40]}, and should be {wanted}")

    check(keys["threshold"], threshold, "a number from 0 to 1", is_number(threshold, 0, 1))
    check(keys["temperature"], temperature, "a number above 0", is_number(temperature, 1e-9))
    check(keys["operating_points"], points, "a list", isinstance(points, list))
    for number, point in enumerate(points if own and isinstance(points, list) else ()):
        here = f"{keys['operating_points']}[{number}]"
        named = isinstance(point, dict) and isinstance(point.get("name"), str)
        check(here, point, "a name and a threshold from 0 to 1", named and is_number(point.get("threshold"), 0, 1))
    check(keys["conformal_limits"], limits, "a mapping", isinstance(limits, dict))
    if own and isinstance(limits, dict):
        for name in ("normal_up_to", "pneumonia_from"):
            right = is_number(limits.get(name), 0, 1)
            check(f"{keys['conformal_limits']}.{name}", limits.get(name, "missing"), "a number from 0 to 1", right)
    if isinstance(training, dict):
        share = training.get("prevalence_of_scores")
        name = f"{keys['training_data']}.prevalence_of_scores"
        check(name, share, "a number from 0 to 1", is_number(share, 0, 1))
