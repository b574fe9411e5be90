"""What the page says of one film: the decision in words, what it means and what it does not, and the figures."""

import html
from pathlib import Path
from typing import NamedTuple

from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.pages import decimals, render
from pneumo_hf.app.points import Share, measured_at, measured_by, measured_elsewhere, of_hundred
from pneumo_hf.imaging.quality import ATYPICAL_LAYOUT, LATERAL_VIEW
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE, Task, column_of

REMEDIES = {  # what to do about what is wrong with a picture
    LATERAL_VIEW: "Give the frontal film.",
    ATYPICAL_LAYOUT: "Give the whole frontal film, upright.",
    "a negative: its lungs are bright": "Invert it in its file, and give it again.",
}
WITHOUT = "Read it without the model."
UPRIGHT = "If it is one, give the whole frontal film, upright."
FULL_SIZE = 2  # times the pixels a side that the model sees: such films are no small copies
KERMANY_AGES = (1, 5)  # whole years


class Caution(NamedTuple):
    """Where a film is not as those that the model was trained or measured on: in a few words, and what follows."""

    lead: str
    words: str


class Verdict(NamedTuple):
    """A decision: its kind (flag, clear, abstain or unread), in two or three words, and what it means."""

    kind: str
    words: str
    meaning: str


def at_threshold(predictor: Scorer, result: dict, threshold: float) -> dict:
    """Return a result of `Predictor` as another threshold decides it; what is wrong with a picture stays so."""
    if result["probability"] is None:
        return result
    decided = predictor.settings.decide(result["probability"], threshold=threshold)
    return {**result, "prediction": decided["prediction"]} if result["error"] else {**result, **decided}


def in_words(predictor: Scorer, decided: dict, threshold: float, report: Report | None = None) -> Verdict:
    """Say what was decided at a threshold, and of how many films of the report's test that would be wrong."""
    error = decided["error"]
    if decided["probability"] is None:
        return Verdict("unread", "Not read", _sentence(error))
    if decided["flag"] == "not_chest_xray":
        said = error.partition(": ")[0] if error.startswith("unlike") else error  # without the distance in figures
        return Verdict("unread", "Not recognised as a chest film", f"{_sentence(said)} {UPRIGHT}")
    band, places = predictor.settings.abstention_band(threshold), decimals_of(predictor, decided, threshold)
    if decided["flag"] == "abstain":
        if error:
            return Verdict("abstain", "No answer", f"{_sentence(error)} {REMEDIES.get(error, WITHOUT)}")
        low, high = band or (0.0, 1.0)
        uncertain, unsure = predictor.settings.uncertain_scores, "the model is sure of neither label."
        if uncertain and decided["probability"] >= uncertain[1]:
            unsure = "it is below the threshold, and too high to be called normal."
        meaning = f"From {low:.{places}%} to {high:.{places}%} there is none: {unsure} {WITHOUT}"
        return Verdict("abstain", "No answer", meaning)
    elsewhere = measured_elsewhere(predictor.settings, report, threshold)
    if is_positive(decided["probability"], threshold):
        but = "A flag is not a diagnosis"
        if measured := measured_at(report, predictor.settings.flagged_from(threshold)):
            but += f": of 100 normal films {_were(measured.specificity.of_the_others)} flagged in the test"
            if wrong := _wrong([there.specificity for there in elsewhere]):
                but += f", {wrong} elsewhere"
        return Verdict("flag", "Flagged for review", f"{but}.")
    but, limit = f"This does not exclude {predictor.task.finding}", band[0] if band else threshold
    if measured := measured_at(report, limit):
        but += f": of 100 films with it {_were(measured.sensitivity.of_the_others)} so low in the test"
        if wrong := _wrong([there.sensitivity for there in elsewhere]):
            but += f"; elsewhere {wrong} had no flag{', some of them no answer' if band else ''}"
    return Verdict("clear", "Not flagged", f"It is below {limit:.{places}%}. {but}.")


def _were(share: Share) -> str:
    count = of_hundred(share)
    return f"{count} {'was' if count in ('none', '1', 'fewer than 1') else 'were'}"


def _wrong(right: list[Share]) -> str:
    """Say of how many of a hundred films elsewhere it was wrong, where most; nothing if it is not known."""
    return of_hundred(min(right).of_the_others) if right else ""


def cautions(
    predictor: Scorer, decided: dict, threshold: float, age: float | None, report: Report | None = None
) -> list[Caution]:
    """Say where a film is not as those that the model was trained and measured on: by age, and by size.

    Nothing is said of pictures without an answer by the model.

    Args:
        decided: with `size`, the film's width and height in pixels, where it is known.
        age: in years, where it is known.
    """
    if not is_scored(decided):
        return []
    found = [Caution(*at_age(age))] if age is not None and is_unusual_age(predictor, age) else []
    side, pairs = max(predictor.settings.preprocessing.get("size") or (0,)), report.originals if report else None
    if pairs and max(decided.get("size") or (0,)) >= FULL_SIZE * side:
        full, small = pairs["originals"]["sensitivity"], pairs["copies"]["sensitivity"]
        missed = (
            f"of {full['of']} films with {predictor.task.finding} it did not flag {small['of'] - small['right']} as "
            f"copies, and {full['of'] - full['right']} at full size"
        )
        there = "" if abs(pairs["threshold"] - threshold) < 1e-3 else f" (from {pairs['threshold']:.1%} up)"
        if full["right"] < small["right"]:
            found.append(Caution("Full-size film.", f"The model was trained on small copies: {missed}{there}."))
    return found


def is_unusual_age(predictor: Scorer, age: float | None) -> bool:
    """Return whether a patient is of another age than those that the model is known to be trained on."""
    return knows_ages(predictor) and age is not None and not KERMANY_AGES[0] <= age < KERMANY_AGES[1] + 1


def knows_ages(predictor: Scorer) -> bool:
    """Return whether it is known of which age the patients of the training were."""
    return all(member.settings.trained_on_kermany for member in predictor.members)


def at_age(age: float) -> tuple[str, str]:
    """Say of an unusual age what it is, and what follows."""
    youngest, oldest = KERMANY_AGES
    words = f"The model was trained on children of {youngest} to {oldest} years, and its figures are theirs."
    of_age = (
        f"{round(age, 1):g} years" if age >= 1 else f"{int(12 * age)} months" if age >= 1 / 12 else "under a month"
    )
    return f"Patient of {of_age}.", words


def decimals_of(predictor: Scorer, decided: dict, threshold: float) -> int:
    """Choose the decimals of a film's percentages: they keep its score apart from the limits that it is below."""
    limits = (predictor.settings.flagged_from(threshold), *(predictor.settings.abstention_band(threshold) or ()))
    return decimals([decided["probability"]], limits)


def is_scored(result: dict) -> bool:
    """Return whether a score is shown: not of what could not be read, or is no chest film."""
    return result["probability"] is not None and result["flag"] != "not_chest_xray"


def verdict_html(
    predictor: Scorer, result: dict, threshold: float, report: Report | None = None, age: float | None = None
) -> str:
    """Format the decision in words, then the probability on its scale, with the threshold and where no answer is."""
    decided, task = at_threshold(predictor, result, threshold), predictor.task
    shown = is_scored(decided)
    return render(
        "verdict.html.jinja",
        verdict=in_words(predictor, decided, threshold, report),
        cautions=cautions(predictor, decided, threshold, age, report),
        probability=decided["probability"] if shown else None,
        flagged_from=predictor.settings.flagged_from(threshold),
        unsure=predictor.settings.abstention_band(threshold),
        places=decimals_of(predictor, decided, threshold),
        finding=task.finding,
        trust=trust(predictor, decided),
        answered=decided["flag"] != "abstain",
        labels=shares_of_labels(decided, task) if shown else {},
    )


def trust(predictor: Scorer, decided: dict) -> str:
    """Say in a few words how far a probability is to be believed."""
    share = predictor.settings.training_data.get("prevalence")
    if decided["error"]:
        return "not to be relied on here"
    if not predictor.settings.is_calibrated:
        return "not calibrated"
    of_validation = share and not predictor.settings.recalibration
    if of_validation:
        return f"calibrated where {share:.0%} have it, too high where few do"
    return f"calibrated on {predictor.chosen_on}"


def shares_of_labels(result: dict, task: Task) -> dict[str, float]:
    """Return the probability of each label, the largest first; nothing of two, of which one says both."""
    if task.is_binary or result["probability"] is None:
        return {}
    return dict(sorted(((name, result[column_of(name)]) for name in task.labels), key=lambda one: -one[1]))


def measured_html(predictor: Scorer, report: Report | None, threshold: float) -> str:
    """Format what was measured where films are decided by a threshold: on the report's test, and elsewhere."""
    settings = predictor.settings
    unsure = settings.abstention_band(threshold)
    return render(
        "measured.html.jinja",
        measured=measured_by(settings, report, threshold),
        elsewhere=measured_elsewhere(settings, report, threshold),
        of_hundred=of_hundred,
        finding=predictor.task.finding,
        unsure=unsure,
        threshold=threshold,
        flagged_from=settings.flagged_from(threshold),
    )


def clinical_html(predictor: Scorer, result: dict | None, values: dict) -> str:
    """Format the probability with age, sex and view, where the model weighs them and one is known."""
    if predictor.clinical is None or not result or not is_scored(result):
        return ""
    values = {name: None if value == "" else value for name, value in values.items()}  # an empty box is not known
    fused, called = predictor.clinical.answer(
        result["probability"], values, (NEGATIVE, predictor.task.positive)
    ).values()
    if fused is None:
        return '<p class="hint">Nothing is known beside the film: give what you know, below.</p>'
    known = ", ".join(
        f"{name} {value:g}" if name == "age" else f"{name} {value}"
        for name, value in predictor.clinical.known(values).items()
    )
    return (
        f"<p><b>With {html.escape(known)}: {fused:.1%}</b>, called {html.escape(called.lower())} "
        f"(threshold {predictor.clinical.threshold:.1%}).</p>"
    )


def trained_on(predictor: Scorer) -> str:
    """Say in a sentence whose films the model was trained on, as far as its checkpoint says it."""
    members = [member.settings for member in predictor.members]
    if all(settings.trained_on_kermany for settings in members):
        return "Trained on films of children of 1 to 5 years, of one hospital."
    names = {Path(str(settings.training_data.get("dataset") or "")).name for settings in members} - {""}
    if not names:
        return "Its checkpoint does not say whose films it was trained on."
    return f"Trained on {', '.join(sorted(names))}; its checkpoint does not say who the patients were."


def _sentence(words: str) -> str:
    """Begin with a capital, end with a full stop."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
