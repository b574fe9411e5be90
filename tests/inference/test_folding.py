"""Folding must change nothing but the time."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    ConvNextImageProcessor,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from pneumo_hf import Predictor
from pneumo_hf.errors import InputError
from pneumo_hf.inference.folding import fold_constant_gates, fold_padding, fold_recalibration, folded
from tests.conftest import make_film

SIZES = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
MODELS = {
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4)),
    "efficientnet": lambda: EfficientNetForImageClassification(EfficientNetConfig(**SIZES)),
    "mobilenet": lambda: MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35)),
}


def with_statistics(model: PreTrainedModel) -> PreTrainedModel:
    """As after training: BatchNorm that is not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_goes_into_the_convolutions_and_no_score_moves(name: str) -> None:
    torch.manual_seed(0)
    model, pixel_values = with_statistics(MODELS[name]()), torch.randn(2, 3, 32, 32)
    before = {key: values.clone() for key, values in model.state_dict().items()}
    network = folded(model, pixel_values[:1], padding=True)
    with torch.no_grad():
        ours, theirs = (part(pixel_values, output_hidden_states=True) for part in (network, model))
    assert count_norms(model) > count_norms(network) == 0
    assert all(torch.equal(values, before[key]) for key, values in model.state_dict().items())
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


class Preactivated(nn.Module):
    """BatchNorm behind the shortcut's sum, not behind the convolution that is listed before it."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool):
        films = self.norm(pixel_values + self.convolution(pixel_values))
        return SimpleNamespace(logits=films.mean(dim=(2, 3)), hidden_states=(films,))


class ShortcutOfWhatIsActivated(Preactivated):
    """Its scores would be the same with the activation in place, but not the features that it returns."""

    def __init__(self):
        super().__init__()
        self.activation = nn.ReLU()

    def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool):
        films = self.norm(self.convolution(pixel_values))
        return SimpleNamespace(hidden_states=(films,), logits=self.activation(films).mean(dim=(2, 3)))


@pytest.mark.parametrize("network", [Preactivated, ShortcutOfWhatIsActivated])
def test_a_network_that_it_would_change_is_left_alone(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = with_statistics(network())
    assert folded(model, torch.randn(1, 3, 32, 32), padding=True) is model
    assert count_norms(model) == 1


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize(("kernel", "zeros"), [(3, (0, 1, 0, 1)), (5, (1, 2, 1, 2)), (3, (1, 0, 2, 1))])
def test_padding_on_two_sides_becomes_zeros_of_the_kernel(kernel: int, zeros: tuple, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ZeroPad2d(zeros), nn.Conv2d(4, 4, kernel, stride=2, groups=4, padding="valid"))
    films = torch.randn(2, 4, size, size)
    with torch.no_grad():
        expected = model(films)
        torch.testing.assert_close(fold_padding(model)(films), expected)
    assert isinstance(model[0], nn.Identity)


def test_padding_that_the_convolution_does_not_follow_stays() -> None:
    """Of a stride of 1 the stock EfficientNet pads evenly in the convolution, and its padding layer is idle."""
    torch.manual_seed(0)
    model = EfficientNetForImageClassification(EfficientNetConfig(**SIZES)).eval()
    layers = [block.depthwise_conv for block in model.efficientnet.encoder.blocks]
    fold_padding(model)
    idle = [isinstance(layer.depthwise_conv_pad, nn.ZeroPad2d) for layer in layers]
    assert idle == [layer.stride == 1 for layer in layers] and len(set(idle)) == 2


def test_what_scores_is_folded_and_the_model_is_the_checkpoints(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    saved, ours = load_file(tiny_run / "model.safetensors"), predictor.model.state_dict()
    assert all(torch.equal(ours[name], values.float()) for name, values in saved.items() if values.is_floating_point())
    assert count_norms(predictor.model) > count_norms(predictor.network) == 0


def test_a_processor_that_asks_for_the_shortest_edge(tmp_path: Path) -> None:
    """As the Hub's ResNets come: their `size` has neither height nor width."""
    labels = {"id2label": {0: "NORMAL", 1: "PNEUMONIA"}, "label2id": {"NORMAL": 0, "PNEUMONIA": 1}}
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, **labels))
    with_statistics(model).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    predictor = Predictor(tmp_path, device="cpu")
    assert count_norms(predictor.network) == 0
    assert 0 < predictor([make_film(1, True)])[0]["probability"] < 1


def test_gates_that_no_film_moves_are_folded_and_others_kept() -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
    model = EfficientNetForImageClassification(EfficientNetConfig(**sizes)).eval()
    pixel_values = torch.randn(2, 3, 32, 32)
    blocks = model.efficientnet.encoder.blocks
    with torch.no_grad():
        for block in blocks[1:]:
            block.squeeze_excite.expand.weight.zero_()
            nn.init.normal_(block.squeeze_excite.expand.bias)
        expected = model(pixel_values, output_hidden_states=True)
        folded = fold_constant_gates(model)(pixel_values, output_hidden_states=True)
    assert [isinstance(block.squeeze_excite, nn.Identity) for block in blocks] == [False] + [True] * (len(blocks) - 1)
    assert torch.allclose(folded.logits, expected.logits, atol=1e-6)
    for ours, theirs in zip(folded.hidden_states, expected.hidden_states, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("normal", [0, 1])
def test_offset_and_slope_go_into_the_classifier_exactly(normal: int) -> None:
    torch.manual_seed(0)
    model, pixel_values = with_statistics(MODELS["resnet"]()), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values).logits
        fold_recalibration(model, -1.3, 0.4, normal, pixel_values)
        after = model(pixel_values).logits
    odds = [logits[:, 1 - normal] - logits[:, normal] for logits in (before, after)]
    torch.testing.assert_close(odds[1], -1.3 + 0.4 * odds[0], atol=1e-5, rtol=1e-5)


def test_of_three_labels_an_offset_moves_normal_alone_exactly() -> None:
    config = ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_labels=3)
    torch.manual_seed(0)
    model, pixel_values = ResNetForImageClassification(config).eval(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values).logits.softmax(-1)
        fold_recalibration(model, 0.8, 1.0, 0, pixel_values)
        after = model(pixel_values).logits.softmax(-1)
    torch.testing.assert_close(torch.logit(1 - after[:, 0]), torch.logit(1 - before[:, 0]) + 0.8)
    torch.testing.assert_close(after[:, 1] / after[:, 2], before[:, 1] / before[:, 2])


def test_a_classifier_without_a_bias_is_refused() -> None:
    model = MODELS["resnet"]()
    model.classifier[1] = nn.Linear(8, 2, bias=False)
    with pytest.raises(InputError, match="has no bias in its classifier"):
        fold_recalibration(model, 0.1, 1.0, 0, torch.randn(1, 3, 32, 32))
