"""What CLAIM 2024 and TRIPOD+AI ask of a study, answered from what was measured; the rest is for a person to write."""

from pneumo_hf.evaluation.sample_size import MARGIN, MOST_FILMS, sample_sizes
from pneumo_hf.labels import Task
from pneumo_hf.reporting.checklist_items import CLAIM, TRIPOD_AI

PERSON = "a person must write this"
MANY = f"more than {MOST_FILMS:,}"
CHECKLISTS = {"CLAIM 2024": CLAIM, "TRIPOD+AI": TRIPOD_AI}

Answers = list[tuple[str, str, str]]  # (number, what is asked, answer) of every item


def checklists(metrics: dict, config: dict, unreadable: int, task: Task) -> dict[str, Answers]:
    """Answer every item of both checklists by its number.

    Args:
        metrics: of the split; those of an older report answer less.
        config: of the checkpoint, empty for an ensemble.
        unreadable: films that were left out.
        task: what is told apart.
    """
    found = facts(metrics, config, unreadable, task)
    return {
        name: [(number, asked, found[fact] if fact else PERSON) for number, asked, fact in items]
        for name, items in CHECKLISTS.items()
    }


def facts(metrics: dict, config: dict, unreadable: int, task: Task) -> dict[str, str]:
    """Say what is known, by the keys of `checklist_items`."""
    return {
        **_purpose(metrics, config, task),
        **_films(metrics, config.get("training_data") or {}, unreadable),
        **_partitions(metrics, config.get("training_data") or {}),
        **_model(metrics, config, task),
        **_training(metrics, config),
        **_methods(metrics),
        **_results(metrics),
    }


def _purpose(metrics: dict, config: dict, task: Task) -> dict[str, str]:
    done = "development and evaluation" if metrics.get("training") else "evaluation"
    return {
        "role": "a second reader for research and teaching, whose score is looked at beside a radiologist's; no "
        f"diagnosis. The place in care: {PERSON}",
        "goal": f"{done} of a classifier of {task.finding} or normal on frontal chest films: {metrics['model']}",
        "limits": f"{_measured_limits(metrics, config)} The study's own: {PERSON}",
        "availability": "code: pneumo_hf, Apache-2.0; the model: a stock transformers checkpoint with its card. "
        f"Where these and the films can be had: {PERSON}",
        "users": "they give films by app, command or Python, choose an operating point, and read flags. What skill "
        f"they need: {PERSON}",
        "poor_input": "films that are blank, coloured, tiny, negatives, lateral, laid out unlike a chest or unlike "
        "those of training get no answer but a flag with the reason; what cannot be read is listed and left out",
    }


def _measured_limits(metrics: dict, config: dict) -> str:
    limits = [] if metrics.get("external") else ["Not measured on films of another hospital."]
    if config.get("training_data", {}).get("kermany"):
        limits.append("Trained on films of children of one hospital.")
    if metrics.get("shortcut_floors"):
        best = max(floor["value"] for floor in metrics["shortcut_floors"].values())
        limits.append(f"A linear model without the lungs reaches a ROC AUC of {best:.3f} on these films.")
    return " ".join(limits) or "None was found by what was measured."


def _films(metrics: dict, training: dict, unreadable: int) -> dict[str, str]:
    kermany = bool(training.get("kermany"))
    trained_on = f"; trained on {training['dataset']}" if training.get("dataset") else ""
    taken = [name for name in metrics["subgroups"] if name.startswith(("view", "manufacturer", "device", "patient"))]
    people = [name for name in metrics["subgroups"] if name.startswith(("sex", "age"))]
    known = f"{', '.join(people)}: see the subgroups" if people else "sex and age are not known of enough films"
    return {
        "sources": f"{metrics['dataset']}, split {metrics['split']}{trained_on}. Kind of study, and whom the data "
        f"represent: {PERSON}",
        "centres": f"training: one hospital (Kermany et al. 2018). Of these films: {PERSON}" if kermany else PERSON,
        "eligibility": f"every film of the split that could be read; {unreadable} could not. Clinical criteria: "
        + ("training: children of 1 to 5 years; of these films: " if kermany else "")
        + PERSON,
        "subsets": "none: every readable film of the split counts",
        "missing": f"{unreadable} films could not be read and are listed with their reasons; films without a label "
        "are not in the data; subgroups are of the films whose header or table says it",
        "acquisition": f"known of the films: {', '.join(taken)}" if taken else PERSON,
        "reference": f"the labels of the data set ({'physicians who read the films' if kermany else 'as given'}). "
        f"How and when they were set: {PERSON}",
        "annotators": PERSON,
        "numbers": f"{metrics['n'] + unreadable} films found, {unreadable} not readable, {metrics['n']} of "
        f"{metrics['n_patients']} patients measured, {metrics['prevalence']:.1%} of them with the finding",
        "characteristics": f"{known}. Clinical characteristics: {PERSON}",
    }


def _partitions(metrics: dict, training: dict) -> dict[str, str]:
    if not training.get("films"):
        unknown = f"this is a test alone; how the training data were divided: {PERSON}"
        return dict.fromkeys(("partitions", "disjoint", "events"), unknown) | {"differences": PERSON}
    films, patients = training["films"], training["patients"]
    share = training.get("prevalence")
    of_validation = f", {share:.1%} in validation" if share is not None else ""
    return {
        "partitions": f"train {films['train']} films of {patients['train']} patients, validation "
        f"{films['validation']} of {patients['validation']}, by patient; tested on {metrics['dataset']}",
        "disjoint": "patient, film and near-duplicate: a training on films that break this is refused",
        "events": f"train {films['train']} films, validation {films['validation']}{of_validation}; here "
        f"{metrics['n']} films, {metrics['prevalence']:.1%} with the finding",
        "differences": f"share with the finding: {metrics['prevalence']:.1%} here{of_validation}. In setting and "
        f"patients: {PERSON}",
    }


def _model(metrics: dict, config: dict, task: Task) -> dict[str, str]:
    point, size = metrics["decision_threshold"], (config.get("preprocessing") or {}).get("size")
    resized = f"resized to {size[0]} x {size[1]}" if size else "resized"
    clahe = ", contrast equalised (CLAHE)" if (config.get("preprocessing") or {}).get("clahe") else ""
    output = f"P({task.positive})" if task.is_binary else f"the probability of each of {', '.join(task.labels)}"
    return {
        "preprocessing": f"one 8-bit grey image of the whole film, {resized}{clahe} by the checkpoint's image "
        "processor: the same code in training, evaluation and use. Every file was decoded and checked",
        "model": f"{config.get('model_type', metrics['model'])}; input: one film, {resized}; output: {output}; "
        "computed by pneumo_hf.Predictor, which agrees with the stock pipeline",
        "output": f"{output}; {task.positive} from {_number(point['value'])} up ({point['method']}, chosen on "
        f"{point['chosen_on']})",
        "predictors": "the pixels of the film alone"
        + (", and beside it age, sex or view" if metrics.get("clinical") else ""),
        "no_judgement": "none needs judgement",
        "software": ", ".join(f"{package} {number}" for package, number in metrics["versions"].items()),
        "ensemble": f"the mean of the logits of {metrics['model']}" if not config else "none: one checkpoint",
    }


def _training(metrics: dict, config: dict) -> dict[str, str]:
    training, point = metrics.get("training") or {}, metrics["decision_threshold"]
    known = bool(config.get("training_data"))
    settings = "every setting and seed: recipe.yaml beside the checkpoint; the log: report/history.csv"
    if training:
        settings += f"; {training['seconds']:.0f} s on {training['machine']}, {training['precision']}"
    temperature = config.get("calibration_temperature")
    return {
        "training": settings if known else PERSON,
        "initial": "those of model_name_or_path in recipe.yaml" if known else PERSON,
        "imbalance": "class_weights and sampler in recipe.yaml; a temperature "
        + (f"of {temperature:.2f} " if temperature else "")
        + "was fitted on validation afterwards"
        if known
        else PERSON,
        "selection": ("the epoch by metric_for_best_model of recipe.yaml, on validation; " if known else "")
        + f"the threshold by {point['method']}, on {point['chosen_on']}",
    }


def _methods(metrics: dict) -> dict[str, str]:
    curve = ", net benefit (decision curve)" if metrics.get("decision_curve") else ""
    groups = ", ".join(metrics.get("gaps") or {})
    return {
        "measures": "ROC and PR AUC, sensitivity, specificity, predictive values, F1, MCC, Brier score, calibration "
        f"error, slope and intercept, risk against coverage{curve}; with the plots of the report",
        "uncertainty": "95 % intervals of 2,000 bootstrap resamples of patients; Wilson's and DeLong's in "
        "metrics.json",
        "size": _size(metrics),
        "fairness": f"gaps between groups by {groups}, with intervals and what could have been shown"
        if groups
        else f"no column of groups was known; {PERSON}",
        "clusters": "by source, see the subgroups and gaps"
        if any(name.startswith("source") for name in metrics["subgroups"])
        else "one source: not examined",
        "updating": "none in this evaluation",
        "robustness": "eight corruptions at five severities, in the report" if metrics.get("robustness") else PERSON,
        "explanation": "Grad-CAM; checked by insertion and deletion, and by its share in the central box"
        if metrics.get("explanation")
        else PERSON,
    }


def _size(metrics: dict) -> str:
    parts = [
        f"{name}: {one['films']:.0f} films give plus or minus {one['half_width']:.3f}; for plus or minus {MARGIN} "
        f"{one['needed'] or MANY} such films are needed, {one['needed_in_all'] or MANY} in all (Jeffreys intervals, "
        "films of one patient counting for less)"
        for name, one in sample_sizes(metrics).items()
    ]
    return f"all films that could be read. {'; '.join(parts)}. Why this size: {PERSON}"


def _results(metrics: dict) -> dict[str, str]:
    area, error, calibration = metrics["metrics"]["roc_auc"], metrics["metrics"]["ece"], metrics["calibration"]
    tested = f"{metrics['dataset']}, {metrics['split']}, {metrics['n']} films"
    at_threshold = "; ".join(f"{name} {_figure(metrics['metrics'][name])}" for name in ("sensitivity", "specificity"))
    counts, groups = metrics["confusion_matrix"], len(metrics["subgroups"])
    external = metrics.get("external")
    return {
        "performance": f"ROC AUC {_figure(area)}; ECE {_figure(error)}, slope {_number(calibration['slope'])}; "
        f"{groups} subgroups in the report",
        "accuracy": at_threshold,
        "failures": f"{counts['fp']} normal films were flagged and {counts['fn']} with the finding missed; the "
        "surest are shown in the report",
        "internal": f"see the checkpoint's own report, on {external['home']['dataset']}" if external else tested,
        "external": f"{tested}: see the words on what is lost" if external else PERSON,
    }


def _figure(metric: dict) -> str:
    return f"{_number(metric['value'])} ({' to '.join(map(_number, metric['ci95']))})"


def _number(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
