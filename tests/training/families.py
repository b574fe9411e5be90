"""Tiny random checkpoints of many architectures, as from the Hub: of another film size, with a head of 1000 labels."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessorPil

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PATCHES = {"image_size": 32, "patch_size": 16}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
VISION = {"vision_config": {**TRANSFORMER, **PATCHES}}
FAMILIES: dict[str, dict] = {
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "hidden_dim": 320,
        "batch_norm_momentum": 0.99,
    },
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "regnet": {"depths": [1, 1, 1, 1], "hidden_sizes": [32] * 4, "embedding_size": 32, "groups_width": 8},
    "convnextv2": STAGES,
    "vit": {**TRANSFORMER, **PATCHES},
    "deit": {**TRANSFORMER, **PATCHES},
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "dinov2_with_registers": {**TRANSFORMER, **PATCHES, "num_register_tokens": 4, "mlp_ratio": 2},
    "siglip": VISION,
    "clip": VISION,
    "beit": {**TRANSFORMER, **PATCHES, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    "pvt_v2": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 24, 32],
        "num_attention_heads": [1, 1, 2, 2],
        "mlp_ratios": [2, 2, 2, 2],
    },
}


def tiny_checkpoint(family: str, folder: Path, num_labels: int = 1000) -> Path:
    """Write a random checkpoint of an architecture."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, num_labels=num_labels, **FAMILIES[family])
    config.architectures = ["DeiTForImageClassification"] if family == "deit" else None  # which has two
    model = AutoModelForImageClassification.from_config(config)
    for module in model.modules():  # as if trained: by their own draws features and gradients of 50 layers fade away
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 32, 32))
    model.save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder
