"""A checkpoint at another hospital: level and slope of its scores, thresholds and limits, fitted to films there.

The log odds of not being NORMAL are moved: logistic recalibration (Cox 1958; Steyerberg et al. 2004). The order of
films, and so the ROC AUC, stays.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from scipy.special import expit, log_expit
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from pneumo_hf.config.arguments import DataArguments, target_of
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.leakage import assert_new_to
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.predictions import columns_of, write_csv
from pneumo_hf.data.sources import read_source, split_of
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.before_after import LocalFilms, Scored, before_and_after
from pneumo_hf.evaluation.calibration import fit_offset
from pneumo_hf.evaluation.evaluate import PACKAGES, endpoint_labels
from pneumo_hf.evaluation.metrics import confusion
from pneumo_hf.evaluation.operating_points import DEFAULT, NAMED, fit_settings, operating_points
from pneumo_hf.inference.clinical import CLINICAL
from pneumo_hf.inference.details import DETAIL_COLUMNS, details_file, details_of_dataset
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.recalibrated import write_recalibrated
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.labels import NEGATIVE

FEWEST = 20  # films of each label, for a checkpoint
FEWEST_PATIENTS = 5  # of each label, to be measured: one a fold
MOST_FOLDS = 10
SLOPE_PATIENTS = 50  # of each label; of fewer, the slope's own error costs more than a small one mends
OTHER_FILMS = 200  # of each other split, by which a checkpoint's own data are known again


@dataclass
class Recalibration:
    """What recalibration brings, measured by cross-fitting, and the settings that all films together give."""

    report: dict  # `recalibration.json`
    settings: CheckpointSettings
    offset: float
    slope: float
    scorer: Scorer  # as it was
    films: LocalFilms
    before: Scored
    after: Scored  # cross-fitted
    refused: str  # why there is no checkpoint; empty where there is one

    @property
    def metrics(self) -> dict:
        """The contract's `metrics.json`: of the new checkpoint, by the fits that did not see a film's patient."""
        labels, report = self.films.labels, self.report
        return {
            **{name: report[name] for name in ("model", "dataset", "split", "n", "n_patients", "prevalence")},
            "metrics": {name: values["after"] for name, values in report["metrics"].items()},
            "decision_threshold": report["decision_threshold"]["after"]
            | {"chosen_on": "these films; the figures are cross-fitted by patient"},
            "confusion_matrix": confusion(labels, self.after.passed()),
            "operating_points": [
                {
                    **operating_points(labels, self.after.passed(point["name"]).astype(float), {point["name"]: 0.5})[
                        0
                    ],
                    "threshold": point["threshold"]["after"],
                }
                for point in report["operating_points"]
            ],
            "shortcut_floors": {},
            "subgroups": {},
            "versions": {package: version(package) for package in PACKAGES},
        }

    def save(self, folder: str | Path) -> None:
        """Write the new checkpoint: stock, as before, with predictions and details of the local films in `report/`.

        They are what thresholds and limits were chosen on, as validation films are for a training: `monitor` sets
        later films beside them.

        Raises:
            InputError: the films were too few, or the folder holds another checkpoint.
        """
        if self.refused:
            raise InputError(self.refused)
        write_recalibrated(self.scorer.members[0], self.offset, self.slope, self.settings, Path(folder))
        report, task = Path(folder) / "report", self.settings.task
        report.mkdir(exist_ok=True)
        logits = moved(self.films.logits, self.offset, self.slope)
        rows = self.films.rows(logits, [self.settings] * len(logits), task)
        write_csv(report / "predictions_validation.csv", columns_of(task), rows)
        if details := self.films.details:
            named = ({**film, "path": name} for name, film in zip(self.films.names, details, strict=True))
            write_csv(report / details_file("validation"), ("path", *DETAIL_COLUMNS), named)


def recalibrate(
    model: str | Path,
    data: str | Path | Mapping[str, Dataset],
    split: str | None = None,
    *,
    label_map: Mapping[str, str] | None = None,
    report_only: bool = False,
    device: str | None = None,
    cache_dir: str | Path = DataArguments.cache_dir,
) -> Recalibration:
    """Fit a checkpoint's scores, thresholds and limits to another hospital's films, without training.

    Args:
        model: a run folder or Hub id.
        data: labelled films, as for `load_data`, or what it returned.
        split: of the data; by default all films.
        label_map: other names of labels, of the data and of the checkpoint.
        report_only: also measure what is too little for a checkpoint.
        device, cache_dir: of torch; where decoded films are kept.

    Returns:
        The recalibration, for `reporting.recalibration.write_recalibration`.

    Raises:
        InputError: no such model, data or split; too few films of a label; or the checkpoint was trained on them.
    """
    scorer = Predictor(model, device=device, label_map=label_map)
    title = "data set" if isinstance(data, Mapping) else Path(data).name
    tables = data if isinstance(data, Mapping) else read_source(data, *endpoint_labels(scorer.task, label_map))
    if split:
        split_of(tables, split, title)
    chosen = [films for name, films in tables.items() if split in (None, name)]
    films, rejected = decode_films(concatenate_datasets(chosen), scorer.image_processor, cache_dir)
    if films.label_names[0] != NEGATIVE:
        raise InputError(f"{title} has the labels {', '.join(films.label_names)}: {NEGATIVE} must be the first")
    refused = why_too_few(films.endpoint, films.patient_ids, title, scorer.task.positive, report_only)
    others = {
        name: table.select(range(min(len(table), OTHER_FILMS)))
        for name, table in tables.items()
        if split not in (None, name)
    }
    parts = {"local": films} | {
        name: decode_films(table, scorer.image_processor, cache_dir)[0] for name, table in others.items()
    }
    digests = {name: film_digests(part.thumbnails) for name, part in parts.items()}
    names = {name: np.array(part.table["file_name"]) for name, part in parts.items()}
    assert_new_to(scorer.name, digests, names, scorer.settings.trained_on_kermany)
    logits, distances = scorer.predict_dataset(films)
    scored = films.endpoint, logits, films.patient_ids, distances
    details = list(details_of_dataset(films, distances))
    local = LocalFilms(films.table["file_name"][:], *scored, list(films.issues), rejected, details)
    if report_only and not refused:
        refused = "the report alone was asked for"
    return recalibrate_scores(scorer, local, title, split or "all", refused)


def _fewest_patients(labels: np.ndarray, patient_ids: np.ndarray) -> int:
    """Count the patients `[N]` of the label that has fewer."""
    return min(len(set(patient_ids[labels == label])) for label in (0, 1))


def why_too_few(
    labels: np.ndarray, patient_ids: np.ndarray, title: str, positive: str, report_only: bool = False
) -> str:
    """Say why films are too few for a checkpoint; empty where they are enough.

    Raises:
        InputError: they are, and it is not only measured; or there are too few patients to measure anything.
    """
    films = [int(np.sum(labels == label)) for label in (0, 1)]
    patients = [len(set(patient_ids[labels == label])) for label in (0, 1)]
    found = f"{title} has {films[0]} films of {NEGATIVE} and {films[1]} of {positive}"
    why = f"{found}: a checkpoint is recalibrated on at least {FEWEST} of each" if min(films) < FEWEST else ""
    if min(patients) < FEWEST_PATIENTS:
        raise InputError(
            f"{found}, of {patients[0]} and {patients[1]} patients: recalibration needs at least {FEWEST} films and "
            f"{FEWEST_PATIENTS} patients of each"
        )
    if why and not report_only:
        raise InputError(f"{why} (--report_only measures what it would bring)")
    return why


def recalibrate_scores(scorer: Scorer, films: LocalFilms, title: str, split: str, refused: str = "") -> Recalibration:
    """Recalibrate a checkpoint on films that it has scored.

    Args:
        scorer: of one checkpoint, without mirroring.
        title, split: of the data.
        refused: of `why_too_few`.

    Raises:
        InputError: the scores order the films no better than chance.
    """
    labels, odds, patients, own = films.labels, films.odds, films.patient_ids, scorer.settings
    if (area := roc_auc_score(labels, odds)) <= 0.5:
        raise InputError(
            f"{title}: the scores order its films no better than chance (ROC AUC {area:.2f}), and recalibration keeps "
            "the order: are the labels right?"
        )

    def fit(chosen: np.ndarray) -> tuple[float, float, CheckpointSettings]:
        if scorer.task.is_binary:
            offset, slope = fit_recalibration(labels[chosen], odds[chosen], patients[chosen])
        else:  # of several logits, a slope would change the order of films
            offset, slope = fit_offset(labels[chosen], odds[chosen]), 1.0
        return offset, slope, refit_settings(own, labels[chosen], expit(offset + slope * odds[chosen]))

    folds = min(MOST_FOLDS, _fewest_patients(labels, patients))
    probs, fitted = np.empty(len(labels)), [own] * len(labels)
    for others, held_out in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(odds, labels, patients):
        offset, slope, settings = fit(others)
        probs[held_out] = expit(offset + slope * odds[held_out])
        for film in held_out:
            fitted[film] = settings
    offset, slope, settings = fit(np.arange(len(labels)))
    described = {
        "dataset": title,
        "split": split,
        "n": len(labels),
        "films": {NEGATIVE: int(np.sum(labels == 0)), scorer.task.positive: int(np.sum(labels == 1))},
        "n_patients": len(set(patients)),
        "prevalence": float(labels.mean()),
        "offset": offset,
        "slope": slope,
        "with_slope": slope != 1,
        "date": datetime.date.today().isoformat(),
    }
    settings.recalibration = described | {"before": provenance(scorer)}
    before = Scored(expit(odds), [own] * len(labels))
    after, final = Scored(probs, fitted), Scored(expit(offset + slope * odds), [settings] * len(labels))
    report = {
        "model": Path(scorer.name).name,
        **described,
        "folds": folds,
        "unreadable": len(films.rejected),
        "refused": refused or None,
        "left_out": [CLINICAL] if scorer.clinical else [],
        "before": settings.recalibration["before"],
        **before_and_after(films, before, after, final),
    }
    return Recalibration(report, settings, offset, slope, scorer, films, before, after, refused)


def refit_settings(settings: CheckpointSettings, labels: np.ndarray, probs: np.ndarray) -> CheckpointSettings:
    """Choose thresholds and limits again, by the checkpoint's own method, on local films `[N]`."""
    method = settings.method if settings.method in NAMED or target_of(settings.method) else DEFAULT
    fitted = fit_settings(labels, probs, method, settings.temperature, settings.training_data)
    return replace(fitted, task=settings.task, preprocessing=settings.preprocessing)


def provenance(scorer: Scorer) -> dict:
    """Say what a checkpoint was before: its name, data, thresholds and limits."""
    settings = scorer.settings
    earlier = {"recalibration": settings.recalibration} if settings.recalibration else {}
    return {
        "checkpoint": Path(scorer.name).name,
        "dataset": settings.training_data.get("dataset"),
        "decision_threshold": settings.threshold,
        "decision_method": settings.method,
        "operating_points": {point["name"]: point["threshold"] for point in settings.operating_points},
        "abstention": settings.conformal_limits,
        **earlier,
    }


def fit_recalibration(labels: np.ndarray, odds: np.ndarray, patient_ids: np.ndarray) -> tuple[float, float]:
    """Fit `(offset, slope)` of `offset + slope * odds` by maximum likelihood.

    With fewer than 50 patients of a label, the slope is 1 and the offset alone is fitted, unless a likelihood ratio
    test at 5 % finds another slope (after the closed test of Vergouwe et al. 2017). It is 1, too, where a threshold
    separates the labels: then no slope is the best.

    Args:
        labels: `[N]`, 0 and 1 both; odds: `[N]`, log odds; patient_ids: `[N]`.
    """
    offset = fit_offset(labels, odds)
    if odds[labels == 1].min() >= odds[labels == 0].max():
        return offset, 1.0
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky").fit(odds[:, None], labels)
    own, slope = float(fitted.intercept_[0]), float(fitted.coef_[0, 0])
    few = _fewest_patients(labels, patient_ids) < SLOPE_PATIENTS
    sign = 2 * labels - 1
    gain = np.sum(log_expit(sign * (own + slope * odds)) - log_expit(sign * (offset + odds)))
    if slope <= 0 or (few and 2 * gain < chi2.ppf(0.95, df=1)):
        return offset, 1.0
    return own, slope


def moved(logits: np.ndarray, offset: float, slope: float) -> np.ndarray:
    """Move logits `[N, C]`, NORMAL first, as the new checkpoint gives them."""
    return logits * slope - np.where(np.arange(logits.shape[1]) == 0, offset, 0.0)
