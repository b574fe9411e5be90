"""Films that the tests make themselves: pneumonia is a bright patch in a lung, so that a tiny network learns it."""

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
LONG = {
    "test_train_hf",
    "test_families",
    "test_scale_out",
    "test_visitors",
    "test_fuzz",
    "test_node",
    "test_browser",
}  # a minute or two each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a worker that begins one at the end would leave the other without work."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def make_film(seed: int, pneumonia: bool, size: tuple[int, int] = (80, 96)) -> np.ndarray:
    """A grey film `[H, W]` uint8: dark lungs in a bright body, an anatomy of its own, and for pneumonia a patch."""
    random = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    film = 40 + 120 * np.exp(-(((x - 0.5) / 0.4) ** 6)) + 12 * random.standard_normal(size)
    anatomy = Image.fromarray(random.normal(0, 14, (7, 7)).astype(np.float32))
    film += np.asarray(anatomy.resize((width, height), Image.Resampling.BICUBIC))
    for center in (0.3, 0.7):
        film -= 90 * np.exp(-(((x - center) / 0.12) ** 2 + ((y - 0.5) / 0.28) ** 2))
    if pneumonia:
        center = random.choice([0.3, 0.7])
        film += 95 * np.exp(-(((x - center) / 0.09) ** 2 + ((y - random.uniform(0.5, 0.7)) / 0.12) ** 2))
    return film.clip(0, 255).astype(np.uint8)


def make_photograph(seed: int, coloured: bool = False) -> np.ndarray:
    """No chest `[96, 96, 3]`: a few bright squares on a dark ground."""
    random = np.random.default_rng(seed)
    picture = np.zeros((96, 96, 3), np.uint8)
    for _ in range(12):
        x, y = random.integers(0, 80, 2)
        picture[y : y + 16, x : x + 16] = random.integers(0, 256, 3) if coloured else random.integers(0, 256)
    return picture


def write_films(root: Path, counts: dict[str, tuple[int, int]], size: tuple[int, int] = (80, 96)) -> Path:
    """Write `{split: (normal, pneumonia)}` films in Kaggle's layout and naming, two films of most patients."""
    seed = 0
    for number, (split, (normal, pneumonia)) in enumerate(counts.items()):
        for index in range(normal + pneumonia):
            label = "NORMAL" if index < normal else "PNEUMONIA"
            patient = 1000 * number + index // 2
            kind = "bacteria" if patient % 2 else "virus"
            name = f"IM-{patient:04d}-{index:04d}" if label == "NORMAL" else f"person{patient}_{kind}_{index}"
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_film(seed, label == "PNEUMONIA", size)).save(folder / f"{name}.jpeg", quality=92)
            seed += 1
    return root


def public_films(count: int, split: str = "test") -> list[bytes]:
    """Films of the embedded sample, spread over the split."""
    from pneumo_hf.data.files import read_film
    from pneumo_hf.data.sources import load_data

    films = load_data(str(ROOT / "data" / "chest_xray_sample"))[split]
    return [read_film(films[int(row)]["image"]) for row in np.linspace(0, len(films) - 1, count)]


def as_options(**values: object) -> list[str]:
    """The command line that gives each option its value."""
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def make_trainer(model, image_processor, arguments, films: dict, **options):
    """An XrayTrainer of the train films, plain but for `options`."""
    from pneumo_hf.imaging.processor import Normalize
    from pneumo_hf.training.trainer import XrayTrainer

    sets = {"train_dataset": films["train"], "eval_dataset": films["validation"]}
    plain = {"prepare": Normalize(image_processor), "augment": None, "class_weights": None}
    return XrayTrainer(model=model, args=arguments, **(sets | plain | options))


@pytest.fixture(scope="session", autouse=True)
def imported_for_good() -> None:
    """Leave the libraries out of garbage collection: each training asks for it, and a million objects of torch take
    a third of a second to go through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def films_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"), {"train": (40, 72), "test": (16, 24)})


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_recipe(films_folder: Path, cache_dir: Path) -> list[str]:
    """Arguments of a training that takes seconds."""
    return as_options(
        model_name_or_path="baseline-cnn",
        dataset=films_folder,
        cache_dir=cache_dir,
        image_size=48,
        per_device_train_batch_size=8,
        probe_epochs=2,
        augmentation="strong",
        augmentation_kwargs='{"crop_scale": 0.8}',
        num_train_epochs=6,
        learning_rate="5e-3",
        layer_lr_decay=1,
        use_cpu="true",
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe."""
    from train_hf import main

    run = tmp_path_factory.mktemp("runs") / "tiny"
    main([*tiny_recipe, "--output_dir", str(run)])
    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[int, str]]:
    """Run `train_hf.py ...` or a command of `python -m pneumo_hf` here: the exit code, and what was said.

    A process of its own would first import for 5 to 7 seconds.
    """
    from pneumo_hf.__main__ import main
    from pneumo_hf.errors import one_line_errors
    from train_hf import main as train

    def run(name: str, *arguments: object) -> tuple[int, str]:
        given, code = list(map(str, arguments)), 0
        caplog.set_level(logging.INFO)
        caplog.clear()
        try:
            with one_line_errors():
                train(given) if name == "train_hf.py" else main([name, *given])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out + caplog.text + printed.err

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared is not here")
    return SHARED
