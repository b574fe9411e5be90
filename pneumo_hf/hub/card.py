"""The model card: `model_card.md` filled from the run's own files, so that no number is typed by hand."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.config.aliases import translate
from pneumo_hf.config.augmentation import POLICIES, make_policy
from pneumo_hf.data.digests import are_kermany, read_held_out
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.metrics import RESAMPLES
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.labels import Task
from pneumo_hf.reporting.names import FIGURES, METRIC_NAMES, chosen_for, label_metric_name
from pneumo_hf.reporting.recalibration import REPORT, write_recalibrated_card

WITH_FILMS = {"mistakes.png", "abstained.png", "heatmaps.png", "index.html"}  # of the report: they show films
HUB_METRICS = ["roc_auc", "accuracy", "precision", "recall", "f1", "matthews_correlation", "brier_score"]  # its ids
RECIPE_ROWS = (  # what a reader looks for first; recipe.yaml has the rest
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "dropout",
    "loss",
    "class_weights",
    "label_smoothing_factor",
    "sampler",
    "trainable_layers",
    "lora_rank",
    "freeze_batch_norm",
    "layer_lr_decay",
    "ema_decay",
    "metric_for_best_model",
    "validation_split",
    "validation_fraction",
    "calibration_data",
    "seed",
)


ROOT = Path(__file__).parents[2]


def write_card(run: Path, template: Path = ROOT / "model_card.md") -> None:
    """Render the card of a finished run to its `README.md`, with the test metrics as the Hub's model-index.

    What `evaluate` measured on other hospitals' films is shown too, if its metrics.json lies in the run as
    `report/external_NAME.json`, and the same films full-size and small, if `report/originals.json` is there. A
    recalibrated checkpoint has a card of its own.

    Raises:
        InputError: such a file was measured with another checkpoint, or the template is not here.
    """
    if (run / REPORT).exists():
        return write_recalibrated_card(run)
    if not template.is_file():
        raise InputError(f"there is no {template.name} beside the package: run this from a checkout of pneumo_hf")
    report = run / "report"
    metrics, config = json.loads((report / "metrics.json").read_text()), json.loads((run / "config.json").read_text())
    recipe = translate(yaml.safe_load((run / "recipe.yaml").read_text()), str(run / "recipe.yaml"))
    settings = CheckpointSettings.from_config(config)
    policy = make_policy(recipe.get("augmentation", "none"), recipe.get("augmentation_kwargs"))
    augmentation = [
        f"{name} {value:g}" for name, value in asdict(policy).items() if value != getattr(POLICIES["none"], name)
    ]
    task = Task.of(list(config["id2label"].values()))
    base, public = recipe["model_name_or_path"], shows_public_films(run)
    text = Environment(trim_blocks=True, lstrip_blocks=True).from_string(template.read_text())
    card = text.render(
        card_data=_metadata(run.name, metrics, recipe, template.parent, task).to_yaml(),
        name=run.name,
        metrics=metrics,
        metric_names=METRIC_NAMES,
        label_names=label_metric_name,
        chosen_for=chosen_for,
        task=task,
        resamples=f"{RESAMPLES:,}",
        validation_points={point["name"]: point for point in settings.operating_points},
        external=[_read_external(path, metrics) for path in sorted(report.glob("external*.json"))],
        originals=_read_originals(report / "originals.json", settings.threshold),
        figures={
            name: caption
            for name, caption in FIGURES.items()
            if (report / name).exists() and (public or name not in WITH_FILMS)
        },
        recipe=recipe,
        recipe_rows=RECIPE_ROWS,
        augmentation=augmentation,
        cost=metrics.get("training"),
        base=Path(base).name if Path(base).exists() else base,
        architecture=config["model_type"],
        megabytes=(run / "model.safetensors").stat().st_size / 1e6,
        training_data=settings.training_data,
        kermany=settings.trained_on_kermany,
        size=settings.preprocessing["size"],
        clahe=settings.preprocessing["clahe"],
        own_code="auto_map" in config,
        temperature=settings.temperature,
        disclaimer=DISCLAIMER,
        package_version=metrics.get("training", {}).get("pneumo_hf", __version__),
    )
    ModelCard(re.sub(r"\n{3,}", "\n\n", card).strip() + "\n").save(run / "README.md")


def _read_external(path: Path, metrics: dict) -> dict:
    external = json.loads(path.read_text())
    home = external.get("external", {}).get("metrics", {}).get("roc_auc", {}).get("home")
    own = metrics["metrics"]["roc_auc"]["value"]
    if home not in (None, own):
        raise InputError(f"{path} is of another checkpoint, of ROC AUC {home:.4f}, not {own:.4f}: remove it")
    return external


def _read_originals(path: Path, threshold: float) -> dict | None:
    originals = json.loads(path.read_text()) if path.exists() else None
    if originals and abs(originals["threshold"] - threshold) > 1e-3:
        raise InputError(
            f"{path} was measured at a threshold of {originals['threshold']}, not {threshold:.4f}: remove it"
        )
    return originals


def shows_public_films(run: Path) -> bool:
    """Return whether the films in a run's pictures, which it held out, are all of the public Kermany set."""
    held_out = read_held_out(run)
    return held_out is not None and bool(are_kermany(held_out).all())


def _metadata(name: str, metrics: dict, recipe: dict, root: Path, task: Task) -> ModelCardData:
    """What the Hub reads of a card. Of data sets and bases it knows only its own ids: others are left out."""

    def is_hub_id(source: str) -> bool:
        here = any((folder / source).exists() for folder in (Path(), root))
        return re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not here

    base, datasets = recipe["model_name_or_path"], [source for source in recipe["dataset"] if is_hub_id(source)]
    measured_on = datasets[0] if datasets == recipe["dataset"] else re.sub(r"[^\w.-]+", "-", metrics["dataset"])
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=base if is_hub_id(base) else None,
        datasets=datasets or None,
        tags=["chest-x-ray", *({task.finding} & {"pneumonia"}), "radiology", "research-only"],
        metrics=HUB_METRICS,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=measured_on,  # an id, or what looks like one: the Hub refuses other characters
                dataset_name=metrics["dataset"],
                dataset_split=metrics["split"],
                metric_type=key,
                metric_name=METRIC_NAMES[key],
                metric_value=metric["value"],
            )
            for key, metric in metrics["metrics"].items()
            if metric["value"] is not None
        ],
    )
