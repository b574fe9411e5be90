"""The tab about the model: what it is, what was measured, and what another threshold would do."""

import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from transformers.utils import cached_file

from pneumo_hf.evaluation.operating_points import predictive_values
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.reporting.report import FIGURES, METRIC_NAMES, label_metric_name


class Report(NamedTuple):
    """What was measured of a checkpoint: its `metrics.json`, and `[K, 2]` sensitivity and specificity at K thresholds
    from 0 to 1, None where an older report is without them."""

    metrics: dict
    curve: Any  # [K, 2], or None

    def at(self, threshold: float) -> tuple[float, float]:
        """Return sensitivity and specificity on the test films at a threshold, to the curve's step."""
        return tuple(self.curve[round(threshold * (len(self.curve) - 1))].tolist())


def read_report(predictor: Scorer) -> Report | None:
    """Read the report beside a checkpoint, in its folder or on the Hub; None where there is none."""
    metrics, curve = report_file(predictor, "metrics.json"), report_file(predictor, "threshold_curve.csv")
    if metrics is None:
        return None
    values = np.loadtxt(curve, delimiter=",", skiprows=1, usecols=(1, 2)) if curve else None
    return Report(json.loads(metrics.read_text()), values)


def build_model_tab(predictor: Scorer, report: Report | None) -> None:
    """Lay the tab out inside the current `gr.Blocks`; its API endpoint is `/threshold`."""
    if report is None:
        gr.Markdown("No report lies beside this checkpoint: `python -m pneumo_hf evaluate` writes one.")
        return
    finding = html.escape(predictor.task.finding)
    gr.HTML(facts(report.metrics, predictor))
    if report.curve is not None:

        def threshold(threshold: float, prevalence: float) -> str:
            """Measure a threshold on the report's test films, and its worth at a share of pneumonia."""
            return at_threshold(report, threshold, prevalence, finding)

        with gr.Row():
            cut = gr.Slider(0, 1, predictor.settings.threshold, step=0.001, label="Threshold", elem_id="threshold")
            prevalence = gr.Slider(0.01, 0.99, 0.3, step=0.01, label=f"Share of {finding} where you are")
        outcome = gr.HTML(at_threshold(report, predictor.settings.threshold, 0.3, finding), elem_id="outcome")
        given = [cut, prevalence]
        cut.change(threshold, given, outcome, api_name="threshold", show_progress="hidden")
        prevalence.change(threshold, given, outcome, api_visibility="private", show_progress="hidden")
    figures = [(report_file(predictor, name), caption) for name, caption in FIGURES.items()]
    gr.Gallery(
        [(str(path), caption) for path, caption in figures if path],
        label="The report's figures",
        columns=3,
        height="auto",
        object_fit="contain",
    )


def facts(metrics: dict, predictor: Scorer) -> str:
    """Format what the report says of its test, every metric with its interval."""
    rows = "".join(
        f"<tr><td>{METRIC_NAMES[key]}</td><td>{_number(m['value'])}</td>"
        f"<td>{_number(m['ci95'][0])} to {_number(m['ci95'][1])}</td></tr>"
        for key, m in metrics["metrics"].items()
    )
    of_labels = metrics.get("labels", {}).get("metrics", {})
    rows += "".join(
        f"<tr><td>{html.escape(label_metric_name(key))}</td><td>{_number(m['value'])}</td>"
        f"<td>{_number(m['ci95'][0])} to {_number(m['ci95'][1])}</td></tr>"
        for key, m in of_labels.items()
    )
    return (
        f"<p><b>{html.escape(Path(predictor.name).name)}</b> on {metrics['n']} films of {metrics['n_patients']} "
        f"patients ({html.escape(metrics['dataset'])}, {metrics['split']}), at its threshold of "
        f"{metrics['decision_threshold']['value']:.3f}.</p>"
        f"<table><tr><th>metric</th><th>value</th><th>95 % interval</th></tr>{rows}</table>"
    )


def at_threshold(report: Report, threshold: float, prevalence: float, finding: str) -> str:
    """Return the confusion matrix of the report's test films at a threshold, and predictive values at a prevalence."""
    metrics, (sensitivity, specificity) = report.metrics, report.at(threshold)
    cases = round(metrics["n"] * metrics["prevalence"])
    tp, tn = round(sensitivity * cases), round(specificity * (metrics["n"] - cases))
    ppv, npv = (values[0] for values in predictive_values(sensitivity, specificity, np.array([prevalence])))
    return (
        f"<p>From {threshold:.3f} up: sensitivity <b>{sensitivity:.3f}</b>, specificity <b>{specificity:.3f}</b>; "
        f"where {prevalence:.0%} have {finding}, PPV <b>{_number(ppv)}</b> and NPV <b>{_number(npv)}</b>.</p>"
        f"<table><tr><th></th><th>called normal</th><th>called {finding}</th></tr>"
        f"<tr><th>normal</th><td>{tn}</td><td>{metrics['n'] - cases - tn}</td></tr>"
        f"<tr><th>{finding}</th><td>{cases - tp}</td><td>{tp}</td></tr></table>"
        f"{decision_curve(metrics.get('decision_curve'), threshold, finding)}"
        "<p class='hint'>On the films of the report's test: to look, not to choose by.</p>"
    )


def decision_curve(found: dict | None, threshold: float, finding: str) -> str:
    """Draw the decision curve as SVG with the threshold marked, and say the net benefit there; "" of older reports."""
    if found is None:
        return ""
    at, top = found["thresholds"], max(*found["treat_all"], *found["model"], 0.001)
    low, high = (np.array(found["ci95"]).T).tolist()
    step = int(np.argmin(np.abs(np.array(at) - threshold)))

    def points(thresholds: list[float], values: list[float]) -> str:
        return " ".join(f"{400 * x:.0f},{200 - 160 * y / top:.0f}" for x, y in zip(thresholds, values, strict=True))

    model, treat_all = found["model"][step], found["treat_all"][step]
    return (
        "<svg viewBox='0 0 400 224' width='100%' style='max-width: 32rem' role='img' aria-label='Decision curve'>"
        f"<polygon points='{points(at + at[::-1], low + high[::-1])}' fill='#99d5cf' opacity='.5'/>"
        f"<polyline points='{points(at, found['treat_all'])}' fill='none' stroke='#b45309'/>"
        "<line x1='0' x2='400' y1='200' y2='200' stroke='currentColor'/>"
        f"<polyline points='{points(at, found['model'])}' fill='none' stroke='#0f766e' stroke-width='2'/>"
        f"<line class='mark' x1='{400 * threshold:.0f}' x2='{400 * threshold:.0f}' y1='24' y2='224' "
        "stroke='currentColor' stroke-dasharray='3 3'/></svg>"
        f"<p>Decision curve (green; brown: flag every film; the line: flag none). If {threshold:.3f} is the chance of "
        f"{finding} from which you would act, the net benefit is <b>{model:.3f}</b> per film, against {treat_all:.3f} "
        f"of flagging every film and 0 of flagging none.</p>"
    )


def _number(value: Any) -> str:
    return "undefined" if value is None or np.isnan(value) else f"{value:.3f}"


def report_file(predictor: Scorer, name: str) -> Path | None:
    """Find a file of the report beside a checkpoint."""
    try:
        path = cached_file(predictor.name, f"report/{name}", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # an ensemble's name is no place
        return None
    return Path(path) if path else None
