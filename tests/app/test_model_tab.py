"""The tab about the model: curves with the threshold marked, the limits in words, and other hospitals' figures."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pneumo_hf import Predictor
from pneumo_hf.app.curves import decision_curve, roc_svg
from pneumo_hf.app.limits import limits
from pneumo_hf.app.model_tab import at_threshold, external_reports, facts, read_report

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "pneumo-efficientnet"


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run, device="cpu")


def place_of(mark: str, svg: str) -> list[float]:
    return [float(value) for value in re.search(rf"class='{mark}' (?:points|cx)='([\d.]+)[,']", svg).groups()]


def test_both_curves_stand_there_with_the_threshold_marked(predictor: Predictor) -> None:
    report = read_report(predictor)
    outcome, curve = at_threshold(report, 0.3, 0.5, "pneumonia"), report.metrics["decision_curve"]
    place = curve["thresholds"].index(0.3)
    assert f"the net benefit is <b>{curve['model'][place]:.3f}</b> per film" in outcome
    assert f"against {curve['treat_all'][place]:.3f} of flagging every film" in outcome
    assert outcome.count("<svg") == 2 and place_of("cut", outcome) == [50 + 340 * 0.3]
    specificity = report.at(0.3)[1]
    assert place_of("mark", outcome) == [pytest.approx(50 + 340 * (1 - specificity), abs=0.06)]
    assert at_threshold(report, 0.999, 0.5, "pneumonia") != outcome


def test_the_decision_curve_of_an_older_report_comes_from_its_rates(predictor: Predictor) -> None:
    report = read_report(predictor)
    older = {name: value for name, value in report.metrics.items() if name != "decision_curve"}
    own, computed = decision_curve(report.metrics, report.curve), decision_curve(older, report.curve)
    at = np.searchsorted(computed.thresholds, own.thresholds - 1e-9)
    assert computed.model[at] == pytest.approx(own.model, abs=1e-6)
    assert computed.treat_all[at] == pytest.approx(own.treat_all, abs=1e-6)
    assert computed.band is None and "class='band'" not in at_threshold(report._replace(metrics=older), 0.3, 0.5, "x")
    assert "class='band'" in at_threshold(report, 0.3, 0.5, "x")


def test_a_roc_curve_ends_in_its_corners() -> None:
    svg = roc_svg(np.array([[1.0, 0.0], [0.9, 0.8], [0.0, 1.0]]), (0.9, 0.8), [])
    points = re.search(r"class='model' points='([^']+)'", svg)[1].split()
    assert (points[0], points[-1]) == ("50.0,260.0", "390.0,12.0")


def test_the_shipped_model_says_its_limits_and_other_hospitals_figures() -> None:
    predictor = Predictor(SHIPPED, device="cpu")
    page, metrics = facts(read_report(predictor).metrics, predictor), read_report(predictor).metrics
    found = json.loads(next((SHIPPED / "report").glob("external*.json")).read_text())
    area = found["metrics"]["roc_auc"]
    assert f"{found['n']} films of {found['n_patients']} patients" in page and f"{area['value']:.3f}" in page
    words = " ".join(limits(predictor, metrics, [found]))
    assert "children of 1 to 5 years, of one hospital" in words and "112 x 112 pixels" in words
    assert re.search(r"it calls 72 as full-size originals, 71 as copies\.", page)
    assert f"its ROC AUC is {area['value']:.2f}" in words and "not measured on films of another hospital" not in words
    for name, metric in metrics["metrics"].items():
        low, high = metric["ci95"]
        assert f"{metric['value']:.3f} <small>{low:.3f} to {high:.3f}</small>" in page, name


def test_nothing_is_said_that_a_checkpoint_does_not_say(predictor: Predictor, tiny_run: Path, tmp_path: Path) -> None:
    metrics = read_report(predictor).metrics
    words = limits(predictor, metrics, external_reports(predictor))
    assert "children" not in " ".join(words) and "It was not measured on films of another hospital." in words
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    for key in ("training_data", "preprocessing", "operating_points", "decision_threshold", "decision_method"):
        config.pop(key)
    (run / "config.json").write_text(json.dumps(config))
    (run / "report" / "external_ward.json").write_text(json.dumps(metrics | {"dataset": "<ward>"}))
    bare = Predictor(run, device="cpu")
    words = limits(bare, metrics, external_reports(bare))
    assert words[0] == "The checkpoint does not say what it was trained on." and not any(
        "pixels" in one for one in words
    )
    assert any("were not calibrated" in one for one in words)
    assert "&lt;ward&gt;" in facts(metrics, bare) and "<ward>" not in facts(metrics, bare)
