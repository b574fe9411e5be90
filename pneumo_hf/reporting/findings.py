"""What a page says first: findings in words, each with how serious it is, the gravest first."""

from collections.abc import Mapping
from typing import Any

from pneumo_hf.evaluation.metrics import FEW_PATIENTS
from pneumo_hf.evaluation.verdict import is_warning

Finding = tuple[str, str]  # a level and a sentence

LEVELS = ("alarm", "warn", "note", "", "good")
STRONG_SHORTCUT, CHANCE = 0.8, 0.5  # ROC AUC


def shortcut_level(floor: Mapping[str, Any]) -> str:
    """Judge a shortcut baseline: "alarm" from a ROC AUC of .8, "warn" where its interval lies above .5, else "".

    >>> shortcut_level({"value": 0.85, "ci95": [0.8, 0.9]})
    'alarm'
    """
    if floor["value"] is None or floor["value"] != floor["value"]:
        return ""
    if floor["value"] >= STRONG_SHORTCUT:
        return "alarm"
    return "warn" if floor["ci95"][0] > CHANCE else ""


def audit_findings(audit: Mapping[str, Any]) -> list[Finding]:
    """Judge an audit.

    Args:
        audit: of `audit.json`.
    """
    exact, near = audit["duplicates"]["exact"], audit["duplicates"]["near"]
    leaks, found = audit["leakage"], [_shortcuts(audit["shortcut_floors"])] if audit["shortcut_floors"] else []
    pairs, patients = len(leaks["exact"]) + len(leaks["near"]), len(leaks["patients"])
    if pairs or patients:
        words = f"The splits leak: {_many(patients, 'patient')} and {_many(pairs, 'pair')} of the same film are in two"
        found.append(("alarm", f"{words} of them. A training on this set is refused."))
    else:
        found.append(("good", "No patient, no film and no near-duplicate is in two splits."))
    conflicting = exact["conflicting_labels"] + near["conflicting_labels"]
    counted = (
        ("warn", conflicting, "group", "of copies", "labelled differently"),
        ("warn", len(audit["unreadable"]), "file", "", "unreadable"),
        ("warn", len(audit["wrong_extension"]), "file", "", "of another kind than the extension says"),
        ("warn", len(audit["looks_inverted"]), "film", "", "inverted, by the look of it: lungs are bright"),
        ("note", exact["spare_films"], "film", "", "an exact copy of another"),
        ("note", near["pairs"], "pair", "of films", "nearly alike"),
    )
    for level, number, name, more, what in counted:
        if number:
            subject = f"{_many(number, name)} {more}".strip()
            what = what if number == 1 else what.replace("an exact copy of another", "exact copies of others")
            found.append((level, f"{subject} {'is' if number == 1 else 'are'} {what}."))
    doubts = audit["label_doubts"]
    if doubts and doubts["doubted"]:
        share = 100 * doubts["doubted"] / doubts["films"]
        words = f"{_many(doubts['doubted'], 'label')} of {doubts['films']:,} ({share:.1f} %)"
        found.append(("note", f"{words} {'is' if doubts['doubted'] == 1 else 'are'} doubted: look at these films."))
    return _by_gravity(found)


def report_findings(metrics: Mapping[str, Any], unreadable: int) -> list[Finding]:
    """Mark the verdict of a report, and add what else is wrong with its films or its figures.

    Args:
        metrics: of `metrics.json`.
        unreadable: number of films that could not be read.
    """
    found = [("warn" if is_warning(sentence) else "", sentence) for sentence in metrics["verdict"]]
    area = metrics["metrics"]["roc_auc"]
    defined = {
        name: floor
        for name, floor in metrics["shortcut_floors"].items()
        if floor["value"] == floor["value"] is not None
    }
    if defined and area["value"] is not None:
        level, words = _shortcuts(defined)
        strongest = max(defined.values(), key=lambda floor: floor["value"])
        if area["ci95"][0] <= strongest["value"]:
            found.append(("alarm", f"{words} This model is not shown to be better: ROC AUC {_figure(area)}."))
        elif level != "good":
            found.append((level, words))
    if metrics["n_patients"] < FEW_PATIENTS:
        found.append(("warn", f"{metrics['n_patients']} patients are few: the intervals are too narrow."))
    if unreadable:
        found.append(("warn", f"{_many(unreadable, 'film')} could not be read."))
    said, marked = ([finding for finding in found if bool(finding[0]) is there] for there in (False, True))
    return said + _by_gravity(marked)


def _shortcuts(floors: Mapping[str, Mapping[str, Any]]) -> Finding:
    """The strongest baselines in words."""
    strong = {name: floor for name, floor in floors.items() if shortcut_level(floor)}
    if not strong:
        return "good", "No shortcut baseline is above chance: what lies outside the lungs does not show the labels."
    names = sorted(strong, key=lambda name: -strong[name]["value"])
    words = f"Without seeing a lung, by {_named(names[0])} alone, a regression reaches a ROC AUC of "
    words += _figure(strong[names[0]])
    if others := names[1:]:
        words += "; by " + ", by ".join(f"{_named(name)} {strong[name]['value']:.2f}" for name in others)
    return shortcut_level(strong[names[0]]), f"{words}. A score may rest on how a film was taken."


def _figure(metric: Mapping[str, Any]) -> str:
    return "{value:.2f} ({0:.2f} to {1:.2f})".format(*metric["ci95"], value=metric["value"])


def _named(key: str) -> str:
    return key.replace("_", " ")


def _many(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _by_gravity(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: LEVELS.index(finding[0]))
