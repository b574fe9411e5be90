"""What a report calls its metrics, and what it says under its figures."""

from pneumo_hf.config.arguments import target_of

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC (average precision)",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "log_loss": "Log loss",
}
LOWER_IS_BETTER = ("brier", "ece", "log_loss")
LABEL_METRICS = {
    "accuracy": "Accuracy over all labels",
    "macro_sensitivity": "Macro sensitivity",
    "macro_f1": "Macro F1",
    "macro_roc_auc": "Macro ROC AUC",
}
FIGURES = {
    "roc.png": "Sensitivity against 1 - specificity; the dots are the operating points.",
    "confusion_matrix.png": "Films by label and by decision.",
    "labels.png": "Films by label and by likeliest label.",
    "reliability.png": "On the dotted line a probability means what it says; large dots are many films.",
    "pr.png": "Precision against sensitivity.",
    "thresholds.png": "What another threshold would give on these films.",
    "predictive_values.png": "What a flag, and no flag, are worth where pneumonia is rarer or more common.",
    "decision_curve.png": "Net benefit, where a missed pneumonia is as bad as (1 - t) / t false alarms.",
    "risk_coverage.png": "Share of errors when only the most certain films are answered.",
    "robustness.png": "ROC AUC, sensitivity and specificity at the carried threshold, as films get worse.",
    "training_curves.png": "How the training went.",
    "mistakes.png": "The most certain mistakes, with what Grad-CAM says they rest on.",
    "abstained.png": "Films without an answer: neither label is certain enough, or no chest X-ray.",
    "heatmaps.png": "Films of pneumonia that were found, with Grad-CAM.",
}


def chosen_for(operating_point: str) -> str:
    """Say in words what a threshold was chosen for; nothing of a name that only its checkpoint knows.

    >>> chosen_for("sensitivity@0.95"), chosen_for("cost@5")
    ('at least 95 % of the ill are flagged', 'a miss weighs as much as 5 false alarms')
    >>> chosen_for("of our ward")
    ''
    """
    kind, target = operating_point.partition("@")[0], target_of(operating_point) or 1.0
    return {
        "youden": "sensitivity and specificity weigh the same",
        "f1": "the best F1, of sensitivity and PPV",
        "sensitivity": f"at least {100 * target:g} % of the ill are flagged",
        "specificity": f"at least {100 * target:g} % of the healthy are not flagged",
        "cost": f"a miss weighs as much as {target:g} false alarms",
    }.get(kind, "")


def label_metric_name(key: str) -> str:
    """Say in words what a figure of `label_metrics` is.

    >>> label_metric_name("roc_auc_VIRUS")
    'ROC AUC of VIRUS against the rest'
    """
    if key in LABEL_METRICS:
        return LABEL_METRICS[key]
    kind = next(name for name in ("roc_auc", "sensitivity") if key.startswith(name))
    label = key.removeprefix(f"{kind}_")
    return f"ROC AUC of {label} against the rest" if kind == "roc_auc" else f"Sensitivity for {label}"
