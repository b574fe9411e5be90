"""The metrics as an `evaluate.Metric`: evaluate.load("pneumo_hf/evaluation/hf_metric.py"), without the Hub."""

import datasets
import evaluate
import numpy as np

from pneumo_hf.evaluation.metrics import metrics_with_intervals

INPUTS = """
Args:
    predictions: P(PNEUMONIA) of each film. references: its label, 1 for pneumonia.
    threshold: films from this probability up are called pneumonia (.5).
    patient_ids: whose films they are, for the bootstrap; by default each film is a patient of its own.
Returns:
    every metric, and `NAME_ci95`, its 95 % interval from 2,000 resamples of patients.
"""


class PneumoniaMetrics(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROC AUC, sensitivity, specificity, calibration and more, with intervals by patient.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, threshold: float = 0.5, patient_ids=None) -> dict:
        patients = np.arange(len(references)) if patient_ids is None else np.asarray(patient_ids)
        values = metrics_with_intervals(np.asarray(references), np.asarray(predictions), threshold, patients)
        result = {name: metric["value"] for name, metric in values.items()}
        return result | {f"{name}_ci95": metric["ci95"] for name, metric in values.items()}
