"""What CLAIM 2024 and TRIPOD+AI ask of a study, filled from what was measured; the rest is for a human to write."""

NOT_REPORTED = "not reported"


def checklist(metrics: dict, config: dict, unreadable: int) -> list[tuple[str, str]]:
    """`(item, answer)` for the items that a report of a classifier can answer, in our own words.

    After CLAIM (Tejani et al. 2024, Radiology: Artificial Intelligence) and TRIPOD+AI (Collins et al. 2024, BMJ).

    Args:
        metrics: of the split; config: of the checkpoint; unreadable: films that were left out.
    """
    training = config.get("training_data", {})
    films, patients = training.get("films", {}), training.get("patients", {})
    kermany = training.get("kermany")
    point, values = metrics["decision_threshold"], metrics["metrics"]
    calibration = metrics["calibration"]
    return [
        ("Purpose, and the role in care", "a second reader for research and teaching; no diagnosis"),
        ("Design: prospective or retrospective", NOT_REPORTED),
        ("Source of the films", f"{metrics['dataset']}, split {metrics['split']}"),
        ("Dates, sites and eligibility", "one hospital, children of 1 to 5 years" if kermany else NOT_REPORTED),
        (
            "Reference standard and who set it",
            "the data's own labels; two readers and a third" if kermany else NOT_REPORTED,
        ),
        ("De-identification", "patient ids are file names' or keyed hashes" if kermany else NOT_REPORTED),
        ("Missing and unreadable films", f"{unreadable} left out, listed with their reasons"),
        ("Size of the test, and why", f"{metrics['n']} films of {metrics['n_patients']} patients; all there are"),
        ("Prevalence", f"{metrics['prevalence']:.3f} of these films"),
        (
            "Partitions, and at which level they are disjoint",
            f"train {films['train']} films of {patients['train']} patients, validation {films['validation']} of "
            f"{patients['validation']}; disjoint by patient, film and near-duplicate"
            if films and patients
            else NOT_REPORTED,
        ),
        ("Model, inputs and outputs", f"{config.get('model_type', 'ensemble')}; one film; P(PNEUMONIA)"),
        ("Training: settings, seeds, software", "recipe.yaml and versions beside the checkpoint"),
        (
            "How the final model was chosen",
            f"by validation ROC AUC; threshold by {point['method']} on {point['chosen_on']}",
        ),
        ("Measures, and their uncertainty", "95 % bootstrap over patients; Wilson and DeLong in metrics.json"),
        (
            "Discrimination",
            "ROC AUC {value:.3f} [{0:.3f}, {1:.3f}]".format(*_pair(values["roc_auc"]), **_value(values["roc_auc"])),
        ),
        (
            "Calibration",
            "ECE {:.3f}, slope {}, intercept {}".format(
                values["ece"]["value"], _number(calibration["slope"]), _number(calibration["intercept"])
            ),
        ),
        (
            "Explanations, and whether they were checked",
            "Grad-CAM, insertion and deletion" if metrics.get("explanation") else NOT_REPORTED,
        ),
        ("Robustness", "corruptions at five severities" if metrics.get("robustness") else NOT_REPORTED),
        ("External validation", "this report" if metrics.get("external") else NOT_REPORTED),
        (
            "Fairness: age, sex, ethnicity",
            "subgroups below"
            if any(name.startswith(("age", "sex")) for name in metrics["subgroups"])
            else NOT_REPORTED,
        ),
        ("Failures looked at", "the surest mistakes below"),
        ("Limits", "see the card"),
        ("Funding, registration, ethics", NOT_REPORTED),
        ("Code, weights and data", "open; see the card"),
    ]


def _value(metric: dict) -> dict[str, float]:
    return {"value": metric["value"] if metric["value"] is not None else float("nan")}


def _pair(metric: dict) -> list[float]:
    return [float("nan") if end is None else end for end in metric["ci95"]]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
