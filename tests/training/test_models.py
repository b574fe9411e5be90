import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from pneumo_hf.config.arguments import ModelArguments
from pneumo_hf.data.files import read_film
from pneumo_hf.data.sources import load_data
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.processor import Normalize, load_image_processor, resize_film
from pneumo_hf.training.backbones import embedded_checkpoint
from pneumo_hf.training.head import final_linear, fold_temperature
from pneumo_hf.training.layers import freeze_below, freeze_statistics, weight_layers
from pneumo_hf.training.models import load_model

ROOT = Path(__file__).parents[2]


def tiny_checkpoint(architecture: str, folder: Path) -> Path:
    """A random checkpoint of a real architecture, small, with 1000 labels as ImageNet's."""
    if architecture == "efficientnet":
        blocks = {"num_block_repeats": [1, 1], "kernel_sizes": [3, 3], "strides": [1, 2], "expand_ratios": [1, 2]}
        channels = {"in_channels": [32, 16], "out_channels": [16, 24], "hidden_dim": 640, "depthwise_padding": []}
        scale = {"width_coefficient": 0.5, "depth_coefficient": 1.0, "num_labels": 1000, "batch_norm_momentum": 0.99}
        config = EfficientNetConfig(**blocks, **channels, **scale)
        model = EfficientNetForImageClassification(config)
    else:
        model = MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, num_labels=1000))
    model.save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["baseline-cnn", "efficientnet", "mobilenet_v2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path):
    name = request.param
    if name != "baseline-cnn":
        name = str(tiny_checkpoint(name, tmp_path_factory.mktemp(name)))
    torch.manual_seed(0)
    return load_model(ModelArguments(name, image_size=64, dropout=0.3), cache_dir)[0]


def test_the_head_is_fresh_and_the_model_is_adapted(model) -> None:
    assert model.config.id2label == {0: "NORMAL", 1: "PNEUMONIA"}
    assert final_linear(model).out_features == 2
    assert not final_linear(model).weight.any()
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert model.accepts_loss_kwargs is False
    assert not any(m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout) and "encoder" not in name)


def test_with_other_strides_half_the_film_is_read_on_the_same_grids(cache_dir: Path, tmp_path: Path) -> None:
    checkpoint = str(tiny_checkpoint("efficientnet", tmp_path))

    def grids(size: int, overrides: dict | None) -> list[torch.Size]:
        arguments = ModelArguments(checkpoint, image_size=size, config_overrides=overrides)
        model, shapes = load_model(arguments, cache_dir)[0], []
        for block in model.efficientnet.encoder.blocks:
            block.register_forward_hook(lambda *hooked: shapes.append(hooked[2].shape))
        model(torch.zeros(1, 3, size, size))
        assert model.config.strides == (overrides or {"strides": [1, 2]})["strides"]
        return shapes

    assert grids(32, {"strides": [1, 1]})[1:] == grids(64, None)[1:]
    assert grids(32, None)[1:] != grids(64, None)[1:]


def test_an_override_that_the_config_does_not_have_is_named(cache_dir: Path, tmp_path: Path) -> None:
    checkpoint = str(tiny_checkpoint("efficientnet", tmp_path))
    with pytest.raises(InputError, match="no stride; did you mean strides"):
        load_model(ModelArguments(checkpoint, config_overrides={"stride": [1, 1]}), cache_dir)
    with pytest.raises(InputError, match="cannot be used"):
        load_model(ModelArguments(checkpoint, config_overrides={"strides": [1]}), cache_dir)
    with pytest.raises(InputError, match="baseline-cnn has none"):
        load_model(ModelArguments("baseline-cnn", config_overrides={"strides": [1]}), cache_dir)


def test_the_head_of_a_checkpoint_with_the_same_labels_is_kept(cache_dir: Path, tmp_path: Path) -> None:
    model, processor = load_model(ModelArguments("baseline-cnn"), cache_dir)
    nn.init.normal_(final_linear(model).weight)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    kept, _ = load_model(ModelArguments(str(tmp_path)), cache_dir)
    assert torch.equal(final_linear(kept).weight, final_linear(model).weight)
    model.config.id2label = {0: "PNEUMONIA", 1: "NORMAL"}
    model.save_pretrained(tmp_path)
    turned, _ = load_model(ModelArguments(str(tmp_path)), cache_dir)
    assert not final_linear(turned).weight.any()


@pytest.mark.parametrize("head", ["missing", "of three outputs"])
def test_a_head_that_is_missing_in_the_weights_starts_from_zeros(head: str, cache_dir: Path, tmp_path: Path) -> None:
    model, processor = load_model(ModelArguments("baseline-cnn"), cache_dir)
    if head == "missing":
        weights = {f"resnet.{key}": values for key, values in model.resnet.state_dict().items()}
    else:
        weights = model.state_dict()
        weights |= {"classifier.1.weight": torch.ones(3, 128), "classifier.1.bias": torch.ones(3)}
    model.save_pretrained(tmp_path, state_dict=weights)
    processor.save_pretrained(tmp_path)
    fresh, _ = load_model(ModelArguments(str(tmp_path)), cache_dir)
    assert final_linear(fresh).out_features == 2 and not final_linear(fresh).weight.any()


def test_the_saved_checkpoint_is_stock_and_the_temperature_exact(model, tmp_path: Path) -> None:
    nn.init.normal_(final_linear(model).weight)
    films = torch.rand(2, 3, 64, 64)
    before = model.eval()(films).logits
    fold_temperature(model, 2.5)
    model.save_pretrained(tmp_path)
    stock, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(stock.eval()(films).logits, before / 2.5)


def test_frozen_layers_do_not_move_nor_do_their_statistics(cache_dir: Path) -> None:
    torch.manual_seed(0)
    model, _ = load_model(ModelArguments("baseline-cnn"), cache_dir)
    nn.init.normal_(final_linear(model).weight)
    freeze_below(model, "4")
    before = {name: values.clone() for name, values in model.state_dict().items()}
    model.train()
    model(torch.rand(4, 3, 64, 64)).logits.square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    names = {id(module): name for name, module in model.named_modules()}
    top = [names[id(module)] for layer in weight_layers(model)[-4:] for module in layer]
    assert moved
    assert {name.rsplit(".", 1)[0] for name in moved} == set(top)


def test_the_head_alone_is_the_classifier_hidden_layer_and_all(model, cache_dir: Path) -> None:
    hidden = load_model(ModelArguments("baseline-cnn", head_size=8), cache_dir)[0]
    for network in (copy.deepcopy(model), hidden):
        freeze_below(network, "head")
        trainable = {name for name, values in network.named_parameters() if values.requires_grad}
        assert trainable == {name for name, _ in network.named_parameters() if name.startswith("classifier.")}
        network.train()
        assert not any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert len(trainable) == 4  # two layers, each with a weight and a bias


def test_all_layers_are_trained_unless_it_is_said_otherwise(cache_dir: Path) -> None:
    for trainable in ("all", "1000"):  # more than there are
        network = load_model(ModelArguments("baseline-cnn"), cache_dir)[0]
        freeze_below(network, trainable)
        assert all(values.requires_grad for values in network.parameters())


def test_frozen_statistics_stay_while_scales_learn(cache_dir: Path) -> None:
    model, _ = load_model(ModelArguments("baseline-cnn"), cache_dir)
    nn.init.normal_(final_linear(model).weight)
    freeze_statistics(model)
    model.train()
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    mean, scale = norm.running_mean.clone(), norm.weight.clone()
    model(torch.rand(4, 3, 64, 64)).logits.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(norm.running_mean, mean)
    assert not torch.equal(norm.weight, scale)


@pytest.mark.shared
def test_the_embedded_backbone_answers_as_the_original(cache_dir: Path, shared: Path) -> None:
    folder = embedded_checkpoint(cache_dir)
    assert folder == embedded_checkpoint(cache_dir)
    processor = load_image_processor(folder)
    films = load_data(ROOT / "data" / "chest_xray_sample")["test"].select(range(0, 624, 40))
    pixels = np.stack([resize_film(load_xray(read_film(film["image"])), processor) for film in films])
    batch = Normalize(processor)(torch.from_numpy(pixels))
    reference = shared / "checkpoints" / "efficientnet-lite0"
    with torch.inference_mode():
        ours, theirs = (
            AutoModelForImageClassification.from_pretrained(path).eval()(batch).logits for path in (folder, reference)
        )
    assert (ours - theirs).abs().max() < 0.05
    assert ours.std() > 0.5


def test_an_id_that_cannot_be_had_is_one_line_that_names_it_and_the_alternative(cache_dir: Path) -> None:
    with pytest.raises(InputError, match="someone/some-net.*efficientnet-lite0") as error:
        load_model(ModelArguments("someone/some-net"), cache_dir)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(cache_dir: Path, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(InputError, match="there is no checkpoint configs/none; .*efficientnet-lite0"):
        load_model(ModelArguments(model_name_or_path="configs/none"), cache_dir)


def test_a_baseline_is_a_stock_resnet(cache_dir: Path) -> None:
    model, processor = load_model(ModelArguments("baseline-cnn", image_size=96), cache_dir)
    assert isinstance(model, ResNetForImageClassification)
    assert 250_000 < model.num_parameters() < 350_000
    assert processor.size["height"] == 96
