"""Low-rank adapters (Hu et al. 2022, LoRA, by peft): few weights are trained, and the checkpoint stays stock."""

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from pneumo_hf.errors import InputError
from pneumo_hf.training.head import final_linear
from pneumo_hf.training.layers import freeze_statistics

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


def add_adapters(model: PreTrainedModel, rank: int) -> "LoraModel":
    """Put adapters on every trainable linear layer but the classifier, in place: they and it alone are trained then.

    Returns:
        What `merge_and_unload` is to be called of when training is over: the model is stock again then.

    Raises:
        InputError: the network has no such layers.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    head = final_linear(model)
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name, module in linears if module is not head and module.weight.requires_grad]
    if not names:
        raise InputError(
            f"lora_rank adapts linear layers, and {model.config.model_type} has none but its classifier: fine-tune "
            "its top layers instead (trainable_layers)"
        )
    # Twice the rank: peft's adapters are scaled by alpha / rank.
    tuner = LoraModel(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), "default")
    head.requires_grad_(True)
    freeze_statistics(model)
    return tuner
