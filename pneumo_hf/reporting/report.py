"""An evaluation becomes `metrics.json`, the predictions, the figures and one page that shows them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from pneumo_hf.data.predictions import write_csv
from pneumo_hf.evaluation.abstention import is_mistake, surest
from pneumo_hf.evaluation.evaluate import Evaluation
from pneumo_hf.evaluation.operating_points import CURVE_COLUMNS, threshold_curve
from pneumo_hf.inference.details import DETAIL_COLUMNS, details_file
from pneumo_hf.reporting.checklist import checklists
from pneumo_hf.reporting.checklist_export import write_docx, write_markdown
from pneumo_hf.reporting.findings import report_findings
from pneumo_hf.reporting.gallery import mistakes_shown, save_galleries
from pneumo_hf.reporting.names import FIGURES, LOWER_IS_BETTER, METRIC_NAMES, label_metric_name
from pneumo_hf.reporting.page import write_page
from pneumo_hf.reporting.plots import save_figures


def write_split(folder: Path, evaluation: Evaluation, suffix: str = "") -> None:
    """Write `metrics{suffix}.json`, `predictions_{split}.csv` and, for `monitor`, `details_{split}.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = evaluation.metrics
    (folder / f"metrics{suffix}.json").write_text(json.dumps(without_nan(metrics), indent=2) + "\n")
    write_csv(folder / f"predictions_{metrics['split']}.csv", evaluation.scorer.columns, evaluation.rows)
    write_csv(folder / details_file(metrics["split"]), ("path", *DETAIL_COLUMNS), evaluation.rows)


def write_report(
    folder: Path, evaluation: Evaluation, validation: Evaluation | None = None, docx: bool = False
) -> None:
    """Write all of an evaluation: `write_split`, the figures, `threshold_curve.csv`, `checklist.md` and `index.html`.

    The page works without a network.

    Args:
        validation: of the validation films, to stand beside these, where it is at hand.
        docx: whether to write `checklist.docx`, too, which needs python-docx.
    """
    write_split(folder, evaluation)
    scorer, rows, rejected = evaluation.scorer, evaluation.rows, evaluation.rejected
    metrics, threshold = without_nan(evaluation.metrics), scorer.settings.threshold
    config = scorer.members[0].model.config.to_dict() if len(scorer.members) == 1 else {}
    write_csv(folder / "threshold_curve.csv", CURVE_COLUMNS, threshold_curve(evaluation.labels, evaluation.probs))
    patients = np.array([row["patient_id"] for row in rows])
    save_figures(folder, evaluation.labels, evaluation.probs, metrics, patients, scorer.task)
    save_galleries(folder, evaluation)
    # The page names no film, so that it can be published: it points to lines of the predictions.
    numbered = [{**row, "line": line} for line, row in enumerate(rows, start=2)]
    mistakes = surest([row for row in numbered if is_mistake(row)], threshold)
    answers = checklists(metrics, config, len(rejected), scorer.task)
    title = f"{metrics['model']} on {metrics['dataset']}, {metrics['split']}: reporting checklists"
    write_markdown(folder / "checklist.md", answers, title)
    if docx:
        write_docx(folder / "checklist.docx", answers, title)
    write_page(
        folder,
        "report.html.jinja",
        {name: caption for name, caption in FIGURES.items() if name != "mistakes.png"},  # shown one by one, larger
        metrics=metrics,
        names=METRIC_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        label_names=label_metric_name,
        task=scorer.task,
        validation=validation and validation.metrics,
        rejected=Counter(film["reason"] for film in rejected).most_common(),
        unreadable=len(rejected),
        mistakes=mistakes[:12],
        shown=mistakes_shown(evaluation),
        not_chests=[row for row in numbered if row["flag"] == "not_chest_xray"][:12],
        config=config,
        checklists=answers,
        findings=report_findings(metrics, len(rejected)),
        versions=metrics["versions"],
    )


def without_nan(value):
    """Put None for figures that are undefined: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
