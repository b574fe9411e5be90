"""What CLAIM 2024 and TRIPOD+AI ask of a study, filled from what was measured; the rest is for a human to write."""

from pneumo_hf.labels import Task

NOT_REPORTED = "not reported"


def checklist(metrics: dict, config: dict, unreadable: int, task: Task) -> list[tuple[str, str]]:
    """List `(item, answer)` for the items that a report of a classifier can answer, in our own words.

    After CLAIM (Tejani et al. 2024, Radiology: Artificial Intelligence) and TRIPOD+AI (Collins et al. 2024, BMJ).

    Args:
        metrics: of the split.
        config: of the checkpoint.
        unreadable: films that were left out.
        task: what is told apart.
    """
    return [
        ("Purpose, and the role in care", "a second reader for research and teaching; no diagnosis"),
        ("Design: prospective or retrospective", NOT_REPORTED),
        *_films(metrics, config.get("training_data", {}), unreadable),
        *_model(metrics, config, task),
        *_results(metrics),
        ("Limits", "see the card"),
        ("Funding, registration, ethics", NOT_REPORTED),
        ("Code, weights and data", "code: pneumo_hf, Apache-2.0; for the rest see the card"),
    ]


def _films(metrics: dict, training: dict, unreadable: int) -> list[tuple[str, str]]:
    kermany, partitions = training.get("kermany"), NOT_REPORTED
    if training:
        films, patients = training["films"], training["patients"]
        partitions = (
            f"train {films['train']} films of {patients['train']} patients, validation {films['validation']} of "
            f"{patients['validation']}; disjoint by patient, film and near-duplicate"
        )
    return [
        ("Source of the films", f"{metrics['dataset']}, split {metrics['split']}"),
        ("Sites and eligibility of training", "one hospital, ages 1 to 5" if kermany else NOT_REPORTED),
        ("Reference standard, and who set it", "the data's own labels" if kermany else NOT_REPORTED),
        ("Missing and unreadable films", f"{unreadable} left out, listed with their reasons"),
        ("Size of the test", f"{metrics['n']} films of {metrics['n_patients']} patients, all that could be read"),
        ("Prevalence", f"{metrics['prevalence']:.3f} of these films"),
        ("Partitions, and at which level they are disjoint", partitions),
    ]


def _model(metrics: dict, config: dict, task: Task) -> list[tuple[str, str]]:
    point = metrics["decision_threshold"]
    settings = "recipe.yaml beside the checkpoint; versions below" if config.get("training_data") else NOT_REPORTED
    return [
        ("Model, input and output", f"{config.get('model_type', 'an ensemble')}; one film; P({task.positive})"),
        ("Training: settings, seed, software", settings),
        ("How epoch and threshold were chosen", f"on {point['chosen_on']}; the threshold by {point['method']}"),
        ("Measures, and their uncertainty", "95 % bootstrap over patients; Wilson's and DeLong's in metrics.json"),
    ]


def _results(metrics: dict) -> list[tuple[str, str]]:
    area, error, calibration = metrics["metrics"]["roc_auc"], metrics["metrics"]["ece"], metrics["calibration"]
    by_person = any(
        name.startswith(("age", "sex")) and "note" not in group for name, group in metrics["subgroups"].items()
    )
    return [
        ("Discrimination", f"ROC AUC {_number(area['value'])}, 95 % {' to '.join(map(_number, area['ci95']))}"),
        ("Calibration", f"ECE {_number(error['value'])}, slope {_number(calibration['slope'])}"),
        (
            "Explanations, and how checked",
            "Grad-CAM, insertion, deletion" if metrics.get("explanation") else NOT_REPORTED,
        ),
        ("Robustness", "eight corruptions, five severities" if metrics.get("robustness") else NOT_REPORTED),
        ("External validation", "this report" if metrics.get("external") else NOT_REPORTED),
        ("Fairness by age and sex", "the subgroups above" if by_person else NOT_REPORTED),
        ("Failures looked at", "the surest mistakes above"),
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
