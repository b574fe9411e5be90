"""Weights between those before and those after fine-tuning (WiSE-FT)."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.errors import InputError
from pneumo_hf.training.run_folder import CHECKPOINTS


def interpolate_weights(model: PreTrainedModel, before: dict[str, torch.Tensor], alpha: float) -> None:
    """Set the weights to `alpha` of the way from those before stage two to the model's own.

    Interpolated weights keep more of what the network knew before, of other pictures or of films as they are (WiSE-FT,
    Wortsman et al. 2022).
    """
    state = model.state_dict()
    for name, values in state.items():
        if values.is_floating_point():
            values.copy_(torch.lerp(before[name].to(values), values, alpha))


def weights_before(
    model: PreTrainedModel, arguments: XrayTrainingArguments, resumed: Path | None
) -> dict[str, torch.Tensor] | None:
    """Copy the weights before stage two, kept on disk for a killed run; None where it will not be needed."""
    if arguments.wise_ft_alpha == 1:
        return None
    path = (resumed.parent if resumed else Path(arguments.output_dir) / CHECKPOINTS) / "before.pt"
    if resumed and not path.exists():
        raise InputError(
            f"wise_ft_alpha needs the weights from before stage two, and {path} is missing: train from the start"
        )
    if not resumed:
        with arguments.main_process_first():
            if arguments.process_index == 0:
                torch.save(model.state_dict(), path)
    return torch.load(path, map_location="cpu", weights_only=True)
