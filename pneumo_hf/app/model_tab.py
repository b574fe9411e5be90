"""The tab about the model: what it is, what was measured, and what another threshold would do."""

import csv
import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from httpx2 import HTTPError  # the client of huggingface_hub
from huggingface_hub import list_repo_files
from transformers.utils import cached_file

from pneumo_hf.app.curves import decision_curve, decision_svg, roc_svg
from pneumo_hf.app.limits import limits
from pneumo_hf.evaluation.operating_points import predictive_values
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import NEGATIVE
from pneumo_hf.reporting.names import FIGURES, LOWER_IS_BETTER, METRIC_NAMES, label_metric_name
from pneumo_hf.reporting.page import templates

FIRST = ("roc_auc", "sensitivity", "specificity", "accuracy")  # shown before the others are asked for
ASSETS = Path(__file__).parent / "assets"
PAGES = templates(ASSETS)
STYLE = (ASSETS / "model.css").read_text() + PAGES.get_template("forest.css.jinja").render()


class Report(NamedTuple):
    """What was measured of a checkpoint: its `metrics.json`, and `[K, 2]` sensitivity and specificity at K thresholds
    from 0 to 1, None where an older report is without them."""

    metrics: dict
    curve: Any  # [K, 2], or None
    originals: dict | None = None  # films as full-size originals and as small copies, where that was measured
    external: Sequence[dict] = ()  # the same of films of other hospitals
    scores: Any = None  # [N], P(PNEUMONIA) of the test films, where they lie beside it
    cases: Any = None  # [N], whether they are not normal

    def at(self, threshold: float) -> tuple[float, float]:
        """Return sensitivity and specificity on the test films at a threshold, to the curve's step."""
        return tuple(self.curve[round(threshold * (len(self.curve) - 1))].tolist())


def read_report(predictor: Scorer) -> Report | None:
    """Read the report beside a checkpoint, in its folder or on the Hub; None where there is none."""
    metrics, curve = report_file(predictor, "metrics.json"), report_file(predictor, "threshold_curve.csv")
    if metrics is None:
        return None
    values = np.loadtxt(curve, delimiter=",", skiprows=1, usecols=(1, 2)) if curve else None
    predictions = report_file(predictor, "predictions_test.csv")
    return Report(
        json.loads(metrics.read_text()),
        values,
        read_originals(predictor),
        external_reports(predictor),
        *(_read_scores(predictions) if predictions else ()),
    )


def build_model_tab(predictor: Scorer, report: Report | None, cuts: Sequence[float]) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/threshold`.

    Args:
        cuts: thresholds of the operating points that the page offers.
    """
    if report is None:
        gr.Markdown("No report lies beside this checkpoint: `python -m pneumo_hf evaluate` writes one.")
        return
    finding, plain = predictor.task.finding, {"apply_default_css": False, "css_template": STYLE}
    gr.HTML(facts(report.metrics, predictor), elem_id="model-facts", **plain)
    if report.curve is not None:

        def threshold(threshold: float, prevalence: float) -> str:
            """Measure a threshold on the report's test films, and its worth at a share of pneumonia.

            Args:
                threshold: a probability of pneumonia, 0 to 1, at or above which a film is flagged.
                prevalence: share of pneumonia among the films where you are, 0 to 1.
            """
            unsure = predictor.settings.abstention_band(threshold)
            return at_threshold(report, threshold, prevalence, finding, cuts, unsure)

        with gr.Row():
            cut = gr.Slider(
                0, 1, round(predictor.settings.threshold, 3), step=0.001, label="Threshold", elem_id="threshold"
            )
            prevalence = gr.Slider(0.01, 0.99, 0.3, step=0.01, label=f"Share of {finding} where you are")
        outcome = gr.HTML(threshold(predictor.settings.threshold, 0.3), elem_id="outcome", **plain)
        given = [cut, prevalence]
        cut.change(threshold, given, outcome, api_name="threshold", show_progress="hidden")
        prevalence.change(threshold, given, outcome, api_visibility="private", show_progress="hidden")
    figures = [(report_file(predictor, name), caption) for name, caption in FIGURES.items()]
    with gr.Accordion("All figures of the report", open=False):
        gr.Gallery(
            [(str(path), caption) for path, caption in figures if path],
            label="The report's figures",
            columns=3,
            height="auto",
            object_fit="contain",
        )


def facts(metrics: dict, predictor: Scorer) -> str:
    """Format what the report says of its test, every metric with its interval, what limits the model, and the figures
    of other hospitals' films."""
    external = external_reports(predictor)
    return PAGES.get_template("model.html.jinja").render(
        model=Path(predictor.name).name,
        metrics=metrics,
        names=METRIC_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        first=[name for name in FIRST if name in metrics["metrics"]],
        of_labels=metrics.get("labels", {}).get("metrics", {}),
        label_name=label_metric_name,
        external=external,
        limits=limits(predictor, metrics, external, read_originals(predictor)),
    )


def at_threshold(
    report: Report,
    threshold: float,
    prevalence: float,
    finding: str,
    cuts: Sequence[float] = (),
    unsure: tuple[float, float] | None = None,
) -> str:
    """Format what a threshold gives on the report's test films: both curves with the threshold marked, the confusion
    matrix, and predictive values at a prevalence.

    Args:
        cuts: thresholds of the operating points that the page offers.
        unsure: the scores between which there is no answer.
    """
    metrics, (sensitivity, specificity) = report.metrics, report.at(threshold)
    cases = round(metrics["n"] * metrics["prevalence"])
    tp, tn = round(sensitivity * cases), round(specificity * (metrics["n"] - cases))
    ppv, npv = (values[0] for values in predictive_values(sensitivity, specificity, np.array([prevalence])))
    elsewhere = [
        (found["n"], *(float(values[0]) for values in predictive_values(shares[0], shares[1], np.array([prevalence]))))
        for found in report.external
        if abs(found["decision_threshold"]["value"] - threshold) < 1e-3  # the slider's step
        for shares in [[found["metrics"][name]["value"] for name in ("sensitivity", "specificity")]]
    ]
    points = [report.at(cut) for cut in cuts]
    curve = decision_curve(metrics, report.curve)
    step = int(np.argmin(np.abs(curve.thresholds - threshold)))
    return PAGES.get_template("outcome.html.jinja").render(
        threshold=threshold,
        prevalence=prevalence,
        finding=finding,
        sensitivity=sensitivity,
        specificity=specificity,
        ppv=ppv,
        npv=npv,
        elsewhere=elsewhere,
        unsure=unsure,
        roc=roc_svg(report.curve, (sensitivity, specificity), points),
        decision=decision_svg(curve, threshold),
        model=curve.model[step],
        treat_all=curve.treat_all[step],
        tn=tn,
        fp=metrics["n"] - cases - tn,
        fn=cases - tp,
        tp=tp,
    )


def external_reports(predictor: Scorer) -> list[dict]:
    """Read `report/external*.json` beside a checkpoint: the metrics of other hospitals' films."""
    folder = Path(predictor.name)
    if folder.is_dir():
        names = sorted(path.name for path in (folder / "report").glob("external*.json"))
    else:
        try:
            names = sorted(fnmatch.filter(list_repo_files(predictor.name), "report/external*.json"))
        except (OSError, ValueError, HTTPError):  # an ensemble's name is no place, or the Hub is out of reach
            return []
    paths = (report_file(predictor, Path(name).name) for name in names)
    return [json.loads(path.read_text()) for path in paths if path]


def read_originals(predictor: Scorer) -> dict | None:
    """Read `report/originals.json` beside a checkpoint: films as full-size originals and as small copies."""
    path = report_file(predictor, "originals.json")
    return json.loads(path.read_text()) if path else None


def _read_scores(path: Path) -> tuple[np.ndarray, np.ndarray] | tuple[()]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("probability") and row.get("label")]
    cases = np.array([row["label"] != NEGATIVE for row in rows])
    return (np.array([float(row["probability"]) for row in rows]), cases) if 0 < cases.sum() < len(rows) else ()


def report_file(predictor: Scorer, name: str) -> Path | None:
    """Find a file of the report beside a checkpoint."""
    try:
        path = cached_file(predictor.name, f"report/{name}", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # an ensemble's name is no place
        return None
    return Path(path) if path else None
