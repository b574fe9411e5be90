"""Every architecture is trained, resumed, measured, explained and exported alike, and serves by the stock pipeline."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    LevitForImageClassification,
    pipeline,
)
from transformers.utils import logging as transformers_logging

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main as command
from pneumo_hf.config.arguments import ModelArguments
from pneumo_hf.config.parse import parse_args
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.explain import GradCam
from pneumo_hf.training.console import EpochLine
from pneumo_hf.training.head import catch_features, final_linear
from pneumo_hf.training.layers import checkpoint_blocks, freeze_below, weight_layers
from pneumo_hf.training.lora import add_adapters
from pneumo_hf.training.models import load_model
from pneumo_hf.training.train import load, train_stages
from tests.conftest import ROOT, as_options
from tests.training.families import FAMILIES, tiny_checkpoint
from train_hf import main

SIZE = 64  # pixels; the checkpoints are of 32, so that tables of positions are interpolated


LONG = "deit", "beit", "siglip", "regnet", "mobilenet_v2", "pvt_v2"  # of parts that the others have


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


def loaded(checkpoint: Path, cache_dir: Path, **options: object):
    return load_model(ModelArguments(str(checkpoint), image_size=SIZE, **options), cache_dir)


@pytest.mark.parametrize(
    "checkpoint",
    [pytest.param(family, marks=pytest.mark.long if family in LONG else ()) for family in FAMILIES],
    indirect=True,
)
def test_trained_killed_resumed_measured_served_explained_and_exported(
    checkpoint: Path, films_folder: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    run = tmp_path / "run"
    recipe = as_options(
        model_name_or_path=checkpoint,
        dataset=films_folder,
        cache_dir=cache_dir,
        output_dir=run,
        image_size=SIZE,
        per_device_train_batch_size=16,
        probe_epochs=2,
        num_train_epochs=2,
        early_stopping_patience=0,
        learning_rate="3e-3",
        layer_lr_decay=0.9,
        ema_decay=0.5,
        augmentation="mild",
        use_cpu="true",
    )
    begin = EpochLine.on_epoch_begin

    def killed(self, args, state, *rest, **more) -> None:
        if self.stage == "stage 2" and state.epoch:
            raise KeyboardInterrupt
        begin(self, args, state, *rest, **more)

    transformers_logging.enable_propagation()  # to caplog
    monkeypatch.setattr(EpochLine, "on_epoch_begin", killed)
    with pytest.raises(KeyboardInterrupt):
        main(recipe)
    monkeypatch.undo()
    main([*recipe, "--resume_from_checkpoint"])
    assert (run / "report" / "index.html").is_file() and (run / "report" / "heatmaps.png").is_file()

    transformers_logging.disable_propagation()
    assert "keys in the checkpoint model loaded" not in caplog.text  # Trainer's words for: nothing was loaded

    start, _ = loaded(checkpoint, cache_dir)
    start(torch.rand(2, 3, SIZE, SIZE)).logits.sum().backward()
    reached = {name for name, values in start.named_parameters() if values.grad is not None}
    predictor = Predictor(run, device="cpu")
    trained = predictor.model.state_dict()
    moved = {name for name, values in start.named_parameters() if not torch.equal(values, trained[name])}
    assert moved == reached  # all but what no score depends on, such as the token for masked patches

    with (run / "report" / "predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))[::8]
    classify = pipeline("image-classification", model=str(run), device="cpu")
    for row in rows:
        answer = {one["label"]: one["score"] for one in classify(str(films_folder / row["path"]))}
        assert answer["PNEUMONIA"] == pytest.approx(float(row["probability"]), abs=1e-5)
    assert predictor.settings.temperature != 1 and predictor.detector is not None

    pixels = torch.from_numpy(np.stack([predictor.resize(load_xray(films_folder / row["path"]))[0] for row in rows]))
    heatmaps = GradCam(predictor)(pixels)
    assert heatmaps.shape == (len(rows), SIZE, SIZE) and ((heatmaps >= 0) & (heatmaps <= 1)).all()

    command(["export", "--model", str(run), "--data", str(films_folder), "--output_dir", str(tmp_path / "onnx")])
    exported = Predictor(tmp_path / "onnx", backend="onnx").logits(pixels)
    np.testing.assert_allclose(exported, predictor.logits(pixels), atol=1e-4)


def test_different_architectures_are_one_ensemble_and_teach_a_third(
    films_folder: Path, cache_dir: Path, tmp_path: Path
) -> None:
    def trained(family: str, **options: object) -> Path:
        same = {"dataset": films_folder, "cache_dir": cache_dir, "image_size": SIZE, "use_cpu": "true"}
        same |= {"probe_epochs": 2, "num_train_epochs": 1, "learning_rate": "1e-3"}
        where = {"model_name_or_path": tiny_checkpoint(family, tmp_path / "stock" / family)}
        run = tmp_path / "runs" / family
        main(as_options(**same, **where, output_dir=run) + [str(part) for key in options for part in options[key]])
        return run

    runs = [trained("vit"), trained("convnextv2")]
    members = [Predictor(run, device="cpu") for run in runs]
    ensemble = load_predictor(runs, device="cpu")
    film = load_xray(next((films_folder / "test" / "PNEUMONIA").iterdir()))
    pixels = [torch.from_numpy(part[None]) for part in ensemble.resize(film)]
    mean = np.mean([member.logits(part) for member, part in zip(members, pixels, strict=True)], axis=0)
    np.testing.assert_allclose(ensemble.logits(*pixels) * ensemble.settings.temperature, mean, rtol=1e-5)
    assert GradCam(ensemble)(*pixels).shape == (1, SIZE, SIZE)

    student = Predictor(trained("regnet", teachers=["--teachers", *runs]), device="cpu")
    assert type(student.model).__name__ == "RegNetForImageClassification"
    assert 0 < student([film])[0]["probability"] < 1


@pytest.mark.parametrize("family", ["vit", "swin", "dinov2_with_registers"])
def test_adapters_alone_are_trained_and_merged(
    family: str, films_folder: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "stock")
    start, _ = loaded(checkpoint, cache_dir)
    films, unmerged = torch.rand(4, 3, SIZE, SIZE), []

    def merge(tuner: LoraModel) -> None:
        with torch.no_grad():
            unmerged.append(tuner.model.eval()(films).logits)
        merge_and_unload(tuner)

    merge_and_unload = LoraModel.merge_and_unload
    monkeypatch.setattr(LoraModel, "merge_and_unload", merge)
    recipe = as_options(
        model_name_or_path=checkpoint,
        dataset=films_folder,
        cache_dir=cache_dir,
        image_size=SIZE,
        probe_epochs=1,
        num_train_epochs=2,
        learning_rate="1e-2",
        lora_rank=4,
        ema_decay=0.5,
        use_cpu="true",
        output_dir=tmp_path / "run",
    )
    arguments = parse_args(recipe)
    model, processor, parts, _ = load(arguments)
    train_stages(model, processor, parts, arguments.training)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(films).logits, unmerged[0], atol=1e-5, rtol=1e-5)
    trained = model.state_dict()
    assert trained.keys() == start.state_dict().keys()
    moved = {name for name, values in start.named_parameters() if not torch.equal(values, trained[name])}
    linears = {f"{name}.weight" for name, module in start.named_modules() if isinstance(module, torch.nn.Linear)}
    assert moved == linears | {"classifier.bias"}


@pytest.mark.parametrize(
    ("recipe", "family"),
    [
        ("convnextv2_tiny", "convnextv2"),
        ("efficientnet_b4", "efficientnet"),
        ("vit_lora", "vit"),
        ("rad_dino", "dinov2_with_registers"),
    ],
)
def test_recipes_whose_weights_are_on_the_hub_run_on_random_ones(
    recipe: str, family: str, films_folder: Path, cache_dir: Path, tmp_path: Path
) -> None:
    small = as_options(
        model_name_or_path=tiny_checkpoint(family, tmp_path / "stock"),
        dataset=films_folder,
        cache_dir=cache_dir,
        output_dir=tmp_path / "run",
        image_size=SIZE,
        probe_epochs=1,
        num_train_epochs=1,
        use_cpu="true",
    )
    main(["--config", str(ROOT / "configs" / f"{recipe}.yaml"), *small])
    stock = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(stock) is type(AutoModelForImageClassification.from_pretrained(tmp_path / "stock"))
    assert f"{recipe}" in (ROOT / "docs" / "training.md").read_text()


def test_adapters_are_of_linear_layers(cache_dir: Path) -> None:
    model, _ = load_model(ModelArguments("baseline-cnn", image_size=SIZE), cache_dir)
    with pytest.raises(InputError, match="resnet has none but its classifier"):
        add_adapters(model, 8)
    with pytest.raises(InputError, match="trainable_layers all"):
        parse_args(["--lora_rank", "8", "--trainable_layers", "3"])


@pytest.mark.parametrize("kind", ["three labels", "one", "float16", "no head", "sharded"])
def test_checkpoints_as_they_come(kind: str, cache_dir: Path, tmp_path: Path) -> None:
    plain = tiny_checkpoint("vit", tmp_path, {"three labels": 3, "one": 1}.get(kind, 1000))
    stock = AutoModelForImageClassification.from_pretrained(plain)
    if kind == "float16":
        stock.half().save_pretrained(plain)
    elif kind == "no head":
        stock.vit.save_pretrained(plain)
    elif kind == "sharded":
        (plain / "model.safetensors").unlink()
        stock.save_pretrained(plain, max_shard_size="20KB")
        assert len(list(plain.glob("model-*.safetensors"))) > 1
    model, _ = loaded(plain, cache_dir)
    assert model.config.num_labels == 2 and model.dtype == torch.float32 and model.config.problem_type is None
    block = "vit.layers.0.mlp.fc1.weight"
    torch.testing.assert_close(model.state_dict()[block], stock.state_dict()[block].float())
    assert not final_linear(model).weight.any()


def test_positions_are_interpolated_and_nothing_else(cache_dir: Path, tmp_path: Path) -> None:
    plain = tiny_checkpoint("vit", tmp_path)
    name = "vit.embeddings.position_embeddings"
    old = AutoModelForImageClassification.from_pretrained(plain).state_dict()[name]
    new = loaded(plain, cache_dir)[0].state_dict()[name]
    assert old.shape == (1, 5, 32) and new.shape == (1, 17, 32)  # a class token, and patches of 16 pixels
    assert torch.equal(new[:, 0], old[:, 0])
    grid = new[0, 1:].reshape(4, 4, 32)
    torch.testing.assert_close(grid.mean(dim=(0, 1)), old[0, 1:].mean(dim=0), atol=1e-5, rtol=0)
    assert (grid[0, 0] - old[0, 1]).norm() < (grid[0, 0] - old[0, 4]).norm()


def test_a_backbone_without_some_of_its_weights_is_refused(cache_dir: Path, tmp_path: Path) -> None:
    plain = tiny_checkpoint("vit", tmp_path)
    weights = load_file(plain / "model.safetensors")
    lost = next(name for name in weights if "fc1.weight" in name or "intermediate.dense.weight" in name)
    save_file({name: values for name, values in weights.items() if name != lost}, plain / "model.safetensors")
    with pytest.raises(InputError, match="has no weights for 1 tensors of the backbone, vit.*weight among them"):
        loaded(plain, cache_dir)


def test_films_that_patches_would_cut_are_refused(cache_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_size is 78, and .* patches of 16 pixels.*: 64 or 80"):
        load_model(ModelArguments(str(tiny_checkpoint("vit", tmp_path)), image_size=78), cache_dir)


def test_a_table_that_cannot_be_interpolated_is_one_line(cache_dir: Path, tmp_path: Path) -> None:
    config = LevitConfig(hidden_sizes=[16, 16, 16], depths=[1, 1, 1], num_attention_heads=[1, 1, 1], key_dim=[8, 8, 8])
    model = LevitForImageClassification(config)
    for values in model.parameters():  # transformers leaves its biases as the memory had them
        torch.nn.init.constant_(values, 0.01)
    model.save_pretrained(tmp_path)
    make_image_processor(None, 224).save_pretrained(tmp_path)
    load_model(ModelArguments(str(tmp_path), image_size=224), cache_dir)
    with pytest.raises(InputError, match="made for films of another size.*--image_size") as error:
        load_model(ModelArguments(str(tmp_path), image_size=192), cache_dir)
    assert "\n" not in str(error.value)


def test_two_heads_are_refused_in_one_line(cache_dir: Path, tmp_path: Path) -> None:
    config = DeiTConfig(**FAMILIES["deit"], num_labels=1000)
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    make_image_processor(None, 32).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="DeiTForImageClassificationWithTeacher is not supported"):
        loaded(tmp_path, cache_dir)


@pytest.mark.shared
@pytest.mark.parametrize("way", ["train", "predict"])
def test_a_checkpoint_of_timm_without_timm_is_one_line(
    way: str, shared: Path, films_folder: Path, tmp_path: Path
) -> None:
    checkpoint = shared / "cases" / "timm_checkpoint"
    with pytest.raises(InputError, match=r"timm_checkpoint needs .*timm.*pip install 'pneumo_hf\[timm\]'") as error:
        if way == "predict":
            Predictor(checkpoint)
        else:
            where = as_options(dataset=films_folder, output_dir=tmp_path / "run", cache_dir=tmp_path)
            main([*as_options(model_name_or_path=checkpoint), *where])
    assert "\n" not in str(error.value)


def test_every_parameter_is_in_one_layer_and_the_frozen_ones_stay(checkpoint: Path, cache_dir: Path) -> None:
    model, _ = loaded(checkpoint, cache_dir, dropout=0.0)
    layers = weight_layers(model)
    listed = [values for layer in layers for module in layer for values in module.parameters(recurse=False)]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    torch.nn.init.normal_(final_linear(model).weight)
    freeze_below(model, "2")
    before = {name: values.clone() for name, values in model.state_dict().items()}
    model.train()(torch.rand(4, 3, SIZE, SIZE)).logits.square().sum().backward()
    torch.optim.SGD([values for values in model.parameters() if values.requires_grad], lr=0.1).step()
    moved = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    names = {module: name for name, module in model.named_modules()}
    top = {names[module] for layer in layers[-2:] for module in layer}
    assert moved and {name.rpartition(".")[0] for name in moved} <= top


def test_the_features_of_stage_one_and_the_dropout_are_the_classifiers(checkpoint: Path, cache_dir: Path) -> None:
    model, _ = loaded(checkpoint, cache_dir, dropout=0.5)
    linear = final_linear(model)
    torch.nn.init.normal_(linear.weight)
    films = torch.rand(3, 3, SIZE, SIZE)
    with catch_features(model) as caught, torch.no_grad():
        logits = model.eval()(films).logits
    assert caught[0].shape == (3, linear.in_features)
    torch.testing.assert_close(linear(caught[0]), logits)
    fed = []
    linear.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    linear.train()
    linear(torch.ones(64, linear.in_features))
    assert set(fed[0].unique().tolist()) == {0.0, 2.0} and 0.4 < (fed[0] == 0).float().mean() < 0.6


def test_blocks_run_twice_give_the_same_gradients(checkpoint: Path, cache_dir: Path) -> None:
    gradients, runs = [], []
    for checkpointed in (False, True):
        model, _ = loaded(checkpoint, cache_dir, dropout=0.0)
        torch.manual_seed(0)
        torch.nn.init.normal_(final_linear(model).weight)
        if checkpointed:
            checkpoint_blocks(model)
        torch.manual_seed(1)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0
        modules, ran = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)], []
        for module in modules[2:-2]:
            module.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        model.train()(torch.rand(4, 3, SIZE, SIZE)).logits.square().sum().backward()
        runs.append(len(ran))
        gradients.append({name: values.grad for name, values in model.named_parameters() if values.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert runs[1] > 1.5 * runs[0]  # blocks are run again
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)
