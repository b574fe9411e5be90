"""The one call that measures: for training, the command and users."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config.arguments import DataArguments
from pneumo_hf.data.digests import are_kermany, known_again, read_held_out
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.labels import assert_every_label
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.shortcuts import Baselines, shortcut_baselines
from pneumo_hf.data.sources import load_data, read_source, split_of
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.abstention import abstention_summary
from pneumo_hf.evaluation.calibration import slope_and_intercept
from pneumo_hf.evaluation.clinical import clinical_gain
from pneumo_hf.evaluation.decision_curve import decision_curve
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.evaluation.external import against_home, home_metrics
from pneumo_hf.evaluation.heatmaps import measure_heatmaps
from pneumo_hf.evaluation.labels import MACRO, label_metrics
from pneumo_hf.evaluation.metrics import FEW_PATIENTS, confusion, metrics_with_intervals, top_label_error
from pneumo_hf.evaluation.operating_points import operating_points, predictive_values
from pneumo_hf.evaluation.robustness import robustness as measure_robustness
from pneumo_hf.evaluation.subgroups import gaps, subgroups
from pneumo_hf.evaluation.verdict import verdict
from pneumo_hf.inference.scorer import Scorer, probabilities, probability_of
from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE, Task
from pneumo_hf.runtime import keep_freed_memory, processes

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy", "pillow")
PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
BASELINE_FILMS = 6000  # train films that the shortcut baselines are fitted to, at most


@dataclass
class Evaluation:
    """What was measured of a checkpoint or an ensemble on one labelled split."""

    metrics: dict  # the contract's `metrics.json`
    rows: list[dict]  # of the predictions CSV
    scorer: Scorer
    views: Sequence[FilmDataset]  # the films as each member of the scorer decodes them
    rejected: list[dict] = field(default_factory=list)  # `{"path", "reason"}` of the films that could not be read

    @property
    def labels(self) -> np.ndarray:
        """`[N]`, 1 for pneumonia."""
        return self.views[0].endpoint

    @property
    def probs(self) -> np.ndarray:
        """P(PNEUMONIA), `[N]`."""
        return np.array([row["probability"] for row in self.rows])


def evaluate(
    model: str | Path | Sequence[str | Path],
    data: str | Path | Mapping[str, Dataset],
    split: str = "test",
    *,
    label_map: Mapping[str, str] | None = None,
    operating_point: str | None = None,
    flip: bool = False,
    robustness: bool = False,
    device: str | None = None,
    backend: Literal["torch", "onnx"] = "torch",
    cache_dir: str | Path = DataArguments.cache_dir,
) -> Evaluation | None:
    """Measure a checkpoint, or an ensemble of several, on a labelled split.

    Args:
        model: a run folder or Hub id, or several.
        data, split: as for `load_data`, or what it returned; train, validation or test.
        label_map: other names of labels, of the data and of the checkpoint.
        operating_point: decide at another threshold that the checkpoint carries.
        flip: average with mirrored films.
        robustness: also score corrupted films, at five severities: some 40 times as long.
        device, backend, cache_dir: of torch; "onnx" for an export; where decoded films are kept.

    Returns:
        The evaluation, for `reporting.report.write_report`; None in all but the main one of several processes.

    Raises:
        InputError: no such model, data, split or operating point, or a label without films.
    """
    checkpoints = [model] if isinstance(model, str | Path) else [*model]
    if robustness and len(checkpoints) > 1:
        raise InputError("robustness is measured for one checkpoint at a time")
    keep_freed_memory()
    group = processes(device)
    scorer = load_predictor(checkpoints, group.device, flip, backend, label_map)
    title = "data set" if isinstance(data, Mapping) else Path(data).name
    tables = data if isinstance(data, Mapping) else _load(data, scorer.task, label_map)
    table = _split_of_task(tables, split, title, scorer.task)
    if operating_point:
        scorer.settings.use(operating_point)
    with group.main_first():  # the others find them in the cache
        decoded = [decode_films(table, member.image_processor, cache_dir) for member in scorer.members]
    views, (*_, rejected) = zip(*decoded, strict=True)
    films = views[0]
    assert_every_label(films.labels, films.label_names, message=f"{title}: {split} has no {{}} films that can be read")
    scores = scorer.predict_dataset(*views, group=group)
    if not group.is_main:
        return None
    baselines = _baselines(tables, split, films, scorer.members[0].image_processor, cache_dir)
    name = " + ".join(Path(checkpoint).name for checkpoint in checkpoints)
    result = evaluate_films(scorer, views, name, title, split, baselines, scores)
    result.rejected = rejected
    result.metrics["verdict"][:0] = _seen_in_training(scorer, films, split)
    if len(checkpoints) == 1 and (home := home_metrics(scorer.name, films)):
        is_kermany = scorer.settings.trained_on_kermany
        result.metrics["external"] = against_home(result.labels, result.probs, result.metrics, home, is_kermany)
    if robustness:
        result.metrics["robustness"] = measure_robustness(scorer, films, scorer.settings.threshold)
    return result


def evaluate_films(
    scorer: Scorer,
    views: Sequence[FilmDataset],
    model: str,
    dataset: str,
    split: str,
    baselines: Baselines | None = None,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
    explain: bool = True,
) -> Evaluation:
    """Measure decoded films, scoring them once.

    Args:
        scorer: whose decision threshold and operating points, chosen on validation, are applied.
        views: the films as each of the scorer's members decodes them; of one checkpoint, one.
        model, dataset: their names in the report.
        baselines: ROC AUC of models that see no lung, to stand beside the result.
        scores: of `predict_dataset`, where the films have been scored.
        explain: whether to measure heatmaps.
    """
    films, settings = views[0], scorer.settings
    logits, distances = scores or scorer.predict_dataset(*views)
    labels, probs = films.endpoint, probability_of(logits)
    rows = scorer.prediction_rows(films, logits, distances)
    thresholds = {point["name"]: point["threshold"] for point in settings.operating_points}
    values = metrics_with_intervals(labels, probs, settings.threshold, films.patient_ids)
    metrics = {
        "model": model,
        "dataset": dataset,
        "split": split,
        "n": len(films),
        "n_patients": len(set(films.patient_ids)),
        "prevalence": float(labels.mean()),
        "metrics": values,
        "decision_threshold": {"value": settings.threshold, "method": settings.method, "chosen_on": scorer.chosen_on},
        "confusion_matrix": confusion(labels, is_positive(probs, settings.threshold)),
        "operating_points": operating_points(labels, probs, thresholds),
        "confusion_matrices": {
            name: confusion(labels, is_positive(probs, value)) for name, value in thresholds.items()
        },
        "calibration": {**slope_and_intercept(labels, probs), "top_label_ece": top_label_error(labels, probs)},
        "predictive_values": _predictive_values(values),
        "decision_curve": decision_curve(labels, probs, films.patient_ids),
        "abstention": abstention_summary(labels, rows, settings.conformal_limits),
        "shortcut_floors": baselines or {},
        "subgroups": subgroups(films, probs, settings.threshold),
        "gaps": gaps(films, probs, settings.threshold),
        "versions": {package: version(package) for package in PACKAGES},
    }
    names = scorer.task.labels
    if len(names) > 2 and tuple(films.label_names) == names:
        metrics["labels"] = label_metrics(names, films.labels, probabilities(logits), films.patient_ids)
    if scorer.clinical:
        metrics["clinical"] = clinical_gain(scorer.clinical, labels, probs, films)
    if explain:
        metrics["explanation"] = measure_heatmaps(scorer, views, rows)
    chosen = [point for point in settings.operating_points if point["name"] == settings.method]
    metrics["verdict"] = verdict(metrics, chosen[0] if chosen and split != "validation" else None, scorer.task.finding)
    return Evaluation(metrics, rows, scorer, views)


def _split_of_task(tables: Mapping[str, Dataset], split: str, title: str, task: Task) -> Dataset:
    """A split whose labels are those of the task, or NORMAL and one other."""
    table = split_of(tables, split, title)
    names = tuple(table.features["label"].names)
    if names != task.labels and (len(names) != 2 or names[0] != NEGATIVE):
        raise InputError(
            f"{title} has the labels {', '.join(names)}, and the checkpoint {', '.join(task.labels)}: load it with "
            "load_data(..., labels=...)"
        )
    return table


def endpoint_labels(task: Task, label_map: Mapping[str, str] | None) -> tuple[tuple[str, str], dict[str, str]]:
    """Return what is decided of a task, NORMAL or not, as two labels, and the label map that puts all films there."""
    of_map = dict(label_map or {})
    if not task.is_binary:
        of_map = {name: label if label.upper() == NEGATIVE else task.positive for name, label in of_map.items()}
        of_map = dict.fromkeys(task.labels[1:], task.positive) | of_map
    return (NEGATIVE, task.positive), of_map


def _load(data: str | Path, task: Task, label_map: Mapping[str, str] | None) -> DatasetDict:
    """The data with the labels of the task; where it does not tell all of them apart, with NORMAL and the rest."""
    if task.is_binary:
        return load_data(data, task.labels, label_map)
    decided = load_data(data, *endpoint_labels(task, label_map))
    given = {name: label for name, label in (label_map or {}).items() if label.upper() in task.labels}
    tables = read_source(data, task.labels, given)
    names = range(len(task.labels))
    if all(set(tables.get(split, {"label": ()})["label"]) == {*names} for split in decided) and all(
        len(tables[split]) == len(films) for split, films in decided.items()
    ):
        return tables
    logger.info("%s has not all of %s: measured by %s or not", data, ", ".join(task.labels), NEGATIVE)
    return decided


def _predictive_values(values: dict) -> list[dict[str, float]]:
    """PPV and NPV at the decision threshold, were a share of 1 % to 70 % of such films of pneumonia."""
    shares = np.array(PREVALENCES)
    ppv, npv = predictive_values(values["sensitivity"]["value"], values["specificity"]["value"], shares)
    return [
        {"prevalence": share, "ppv": float(p), "npv": float(n)}
        for share, p, n in zip(PREVALENCES, ppv, npv, strict=True)
    ]


def _baselines(
    tables: Mapping[str, Dataset] | DatasetDict,
    split: str,
    films: FilmDataset,
    image_processor: BaseImageProcessor,
    cache_dir: str | Path,
) -> Baselines:
    """The shortcut baselines of a split, where the data has train films to fit them to."""
    if split == "train" or "train" not in tables:
        return {}
    step = max(1, -(-len(tables["train"]) // BASELINE_FILMS))
    fitted = tables["train"].select(range(0, len(tables["train"]), step))
    train, _ = decode_films(fitted, image_processor, cache_dir)
    return shortcut_baselines(train, films) if len(set(train.endpoint)) == 2 else {}


def _seen_in_training(scorer: Scorer, films: FilmDataset, split: str) -> list[str]:
    """Say that a checkpoint may have been trained on films of the public Kermany set, which are known by themselves.

    They are those that it did not hold out, and where it does not say what it held out, all in `train`.
    """
    digests, seen = film_digests(films.thumbnails), np.zeros(len(films), bool)
    for member in scorer.members:
        held_out = read_held_out(member.name)
        if member.settings.trained_on_kermany and (held_out is not None or split == "train"):
            seen |= are_kermany(digests) & ~known_again(digests, digests[:0] if held_out is None else held_out)
    if not seen.any():
        return []
    first = np.array(films.table["file_name"])[seen][0]
    return [
        f"The checkpoint may have been trained on {seen.sum()} of these films ({first}): figures of them may be too "
        "good. Score films that it has not seen."
    ]


def summary(evaluation: Evaluation) -> list[str]:
    """Say the main figures in a few lines, and what to beware of."""
    metrics = evaluation.metrics
    lines = [*metrics["verdict"], *metrics.get("external", {}).get("words", ())]
    if metrics["n_patients"] < FEW_PATIENTS:
        lines.append(f"{metrics['n_patients']} patients are few: the bootstrap's intervals are too narrow")
    for name in ("roc_auc", "sensitivity", "specificity", "accuracy"):
        metric = metrics["metrics"][name]
        lines.append("{0:<12} {value:.4f} [{1:.4f}, {2:.4f}]".format(name, *metric["ci95"], **metric))
    for name in MACRO if "labels" in metrics else ():
        metric = metrics["labels"]["metrics"][name]
        line = "of {3} labels: {0} {value:.4f} [{1:.4f}, {2:.4f}]"
        lines.append(line.format(name, *metric["ci95"], len(metrics["labels"]["labels"]), **metric))
    if "clinical" in metrics:
        area, gain = metrics["clinical"]["metrics"]["roc_auc"], metrics["clinical"]["difference"]
        line = "with {3}: roc_auc {value:.4f} [{1:.4f}, {2:.4f}], {0:+.4f} to the film alone"
        lines.append(line.format(gain["value"], *area["ci95"], ", ".join(metrics["clinical"]["columns"]), **area))
    lines.append(f"{metrics['n']} films, {len(evaluation.rejected)} unreadable")
    return lines
