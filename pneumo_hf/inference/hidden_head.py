"""A ResNet with a hidden layer before its classifier. Checkpoints carry a copy of this file, by which they load
anywhere: `AutoModelForImageClassification.from_pretrained(checkpoint, trust_remote_code=True)`."""

from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification


class HiddenHeadResNetConfig(ResNetConfig):
    """`head_size`: units of the hidden layer; `head_dropout`: dropout after it."""

    model_type = "pneumo_hf_hidden_head_resnet"

    def __init__(self, head_size: int = 128, head_dropout: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.head_size, self.head_dropout = head_size, head_dropout


class HiddenHeadResNet(ResNetForImageClassification):
    config_class = HiddenHeadResNetConfig

    def __init__(self, config: HiddenHeadResNetConfig):
        super().__init__(config)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(config.hidden_sizes[-1], config.head_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_size, config.num_labels),
        )
        self.post_init()


HiddenHeadResNetConfig.register_for_auto_class()
HiddenHeadResNet.register_for_auto_class("AutoModelForImageClassification")
AutoConfig.register(HiddenHeadResNetConfig.model_type, HiddenHeadResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(HiddenHeadResNetConfig, HiddenHeadResNet, exist_ok=True)
