"""The tab about the model: what it is, what was measured, and what another threshold would do."""

import html
import json
from pathlib import Path

import gradio as gr
import numpy as np
from scipy.special import expit
from transformers.utils import cached_file

from pneumo_hf.evaluation.ensemble import read_predictions
from pneumo_hf.evaluation.metrics import confusion
from pneumo_hf.evaluation.report import FIGURES, METRIC_NAMES
from pneumo_hf.evaluation.thresholds import predictive_values
from pneumo_hf.inference.predictor import Predictor


def build_model_tab(predictor: Predictor) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/threshold`."""
    metrics = _report_file(predictor, "metrics.json")
    if metrics is None:
        gr.Markdown("No report lies beside this checkpoint: `python -m pneumo_hf evaluate` writes one.")
        return
    metrics = json.loads(metrics.read_text())
    gr.HTML(facts(metrics, predictor))
    if table := read_predictions(predictor.name, "test"):
        labels, odds = map(np.array, zip(*table.values(), strict=True))
        probs = expit(odds)
        with gr.Row():
            threshold = gr.Slider(0, 1, predictor.threshold, step=0.001, label="Threshold", elem_id="threshold")
            prevalence = gr.Slider(0.01, 0.99, 0.3, step=0.01, label="Share of pneumonia where you are")
        outcome = gr.HTML(at_threshold(labels, probs, predictor.threshold, 0.3), elem_id="outcome")
        for slider in (threshold, prevalence):
            slider.change(
                lambda cut, share: at_threshold(labels, probs, cut, share),
                [threshold, prevalence], outcome, api_name="threshold" if slider is threshold else None,
                show_progress="hidden",
            )  # fmt: skip
    figures = [(_report_file(predictor, name), caption) for name, caption in FIGURES.items()]
    gr.Gallery(
        [(str(path), caption) for path, caption in figures if path], label="The report's figures", columns=3,
        height="auto", object_fit="contain",
    )  # fmt: skip


def facts(metrics: dict, predictor: Predictor) -> str:
    """What the report says of its test, every metric with its interval."""
    rows = "".join(
        f"<tr><td>{METRIC_NAMES[key]}</td><td>{_number(m['value'])}</td>"
        f"<td>{_number(m['ci95'][0])} to {_number(m['ci95'][1])}</td></tr>"
        for key, m in metrics["metrics"].items()
    )
    return (
        f"<p><b>{html.escape(Path(predictor.name).name)}</b> on {metrics['n']} films of {metrics['n_patients']} "
        f"patients ({html.escape(metrics['dataset'])}, {metrics['split']}), at its threshold of "
        f"{metrics['decision_threshold']['value']:.3f}.</p>"
        f"<table><tr><th>metric</th><th>value</th><th>95 % interval</th></tr>{rows}</table>"
    )


def at_threshold(labels: np.ndarray, probs: np.ndarray, threshold: float, prevalence: float) -> str:
    """The confusion matrix of the report's test films at a threshold, and predictive values at a prevalence."""
    counts = confusion(labels, probs >= threshold)
    sensitivity = counts["tp"] / max(counts["tp"] + counts["fn"], 1)
    specificity = counts["tn"] / max(counts["tn"] + counts["fp"], 1)
    ppv, npv = (values[0] for values in predictive_values(sensitivity, specificity, np.array([prevalence])))
    return (
        f"<p>From {threshold:.3f} up: sensitivity <b>{sensitivity:.3f}</b>, specificity <b>{specificity:.3f}</b>; "
        f"where {prevalence:.0%} have pneumonia, PPV <b>{ppv:.3f}</b> and NPV <b>{npv:.3f}</b>.</p>"
        "<table><tr><th></th><th>called normal</th><th>called pneumonia</th></tr>"
        f"<tr><th>normal</th><td>{counts['tn']}</td><td>{counts['fp']}</td></tr>"
        f"<tr><th>pneumonia</th><td>{counts['fn']}</td><td>{counts['tp']}</td></tr></table>"
        "<p class='hint'>On the films of the report's test: to look, not to choose by.</p>"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _report_file(predictor: Predictor, name: str) -> Path | None:
    try:
        path = cached_file(predictor.name, f"report/{name}", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # an ensemble's name is no place
        return None
    return Path(path) if path else None
