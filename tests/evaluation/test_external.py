"""The words about films from elsewhere."""

import numpy as np

from pneumo_hf.evaluation.external import _words


def test_it_is_not_said_that_a_figure_is_outside_an_interval_that_is_none() -> None:
    area = {"home": 0.98, "here": 1.0, "change": 0.02, "ci95": [1.0, 1.0]}
    metrics = {"decision_threshold": {"value": 0.5}, "calibration": {"slope": np.nan}}
    needed = [{"name": "sensitivity@0.95", "threshold": 0.4, "specificity": 1.0}]
    text = " ".join(_words(metrics, {"roc_auc": area}, needed, kermany=False))
    assert "too few for an interval" in text and "outside" not in text
