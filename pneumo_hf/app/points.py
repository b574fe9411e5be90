"""The operating points of a checkpoint by plain names, and what the report's test measured at a threshold."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from pneumo_hf.app.model_tab import Report
from pneumo_hf.data.predictions import log_odds
from pneumo_hf.evaluation.operating_points import DEFAULT
from pneumo_hf.inference.settings import CheckpointSettings

NAMES = ("sensitivity", "specificity")
Z = NormalDist().inv_cdf(0.975)  # of an interval of 95 %
ALIKE = math.log(1.1)  # log odds: points that flag from scores nearer than this are one


class Point(NamedTuple):
    """An operating point that the page offers: its name in `config.json`, one for people, and its threshold."""

    name: str
    plain: str
    threshold: float


class Share(NamedTuple):
    """A share of films, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def of_the_others(self) -> "Share":
        """The share of the other films."""
        return Share(1 - self.value, 1 - self.high, 1 - self.low)


class Measured(NamedTuple):
    """Sensitivity and specificity where films are flagged from a score up, and the films that have no answer."""

    sensitivity: Share
    specificity: Share
    films: int
    cases: int  # of them, with the finding
    over_patients: bool  # the intervals: the report's own, by resampling patients; else Wilson's, of films
    unanswered: tuple[Share, Share] | None = None  # of the films with the finding and of the normal ones
    cleared: Share | None = None  # of the normal films: those that have an answer and no flag


def offered(settings: CheckpointSettings) -> list[Point]:
    """Choose the operating points to offer, by rising threshold, each by what it does beside the others.

    A point that was chosen for a sensitivity can give fewer false alarms than one that was chosen for a specificity:
    their order says what they do, whatever they were chosen for. A point that flags the same films as another, but for
    a few, is not offered: one whose threshold lies among the scores without an answer flags none of those.

    >>> points = [{"name": name, "threshold": cut} for name, cut in (("youden", 0.3), ("f1", 0.4), ("cost@5", 0.1))]
    >>> [point.plain for point in offered(CheckpointSettings(0.4, "f1", points))]
    ['Miss few', 'Balanced', 'Few false alarms']
    """
    cuts = settings.thresholds
    ladder, chosen = sorted(cuts, key=cuts.__getitem__), {}
    for name in (settings.method, ladder[0], ladder[-1], DEFAULT):
        place = log_odds(settings.flagged_from(cuts[name])) if name in cuts else math.nan
        if all(abs(place - other) > ALIKE for other in chosen.values()):  # never, if it is not known
            chosen[name] = place
    names = sorted(chosen, key=cuts.__getitem__)
    plain = {settings.method: "The model's own"}
    if len(names) > 1:
        plain |= {names[0]: "Miss few", names[-1]: "Few false alarms"}
    plain[DEFAULT] = "Balanced"
    return [Point(name, plain[name], cuts[name]) for name in names]


def name_of(settings: CheckpointSettings, threshold: float) -> str:
    """Name the point at a threshold: one that is not offered as in `config.json`."""
    plain = {point.threshold: point.plain for point in offered(settings)}
    names = {cut: name for name, cut in settings.thresholds.items()} | plain
    return names.get(threshold, "set by hand")


def point_choices(settings: CheckpointSettings, report: Report | None) -> list[tuple[str, str]]:
    """Write the points to offer with what they measured, on the test and elsewhere, each beside its name in
    `config.json`."""
    return [
        (f"{point.plain}{': ' if words else ''}{words}", point.name)
        for point in offered(settings)
        for words in [in_short(settings, report, point.threshold)]
    ]


def in_short(settings: CheckpointSettings, report: Report | None, threshold: float) -> str:
    """Write sensitivity and specificity at a threshold, on the test and elsewhere; nothing without a report."""
    measured = measured_by(settings, report, threshold)
    if measured is None:
        return ""
    words = f"{measured.sensitivity.value:.1%} sensitive, {measured.specificity.value:.1%} specific"
    if measured.unanswered and measured.unanswered[1].value:
        words += f", {of_hundred(measured.unanswered[1])} of 100 normal without an answer"
    for there in measured_elsewhere(settings, report, threshold):
        words += f" (elsewhere {there.sensitivity.value:.0%} and {there.specificity.value:.0%})"
    return words


def own_point(settings: CheckpointSettings) -> Point:
    """Return the operating point that the model decides by."""
    return next(point for point in offered(settings) if point.threshold == settings.threshold)


def measured_by(settings: CheckpointSettings, report: Report | None, threshold: float) -> Measured | None:
    """Return what the report's test gives where a checkpoint decides by a threshold: what it flags, which can be less
    than what lies above the threshold, and what it leaves without an answer. None without a report."""
    measured = measured_at(report, settings.flagged_from(threshold))
    if measured is None or report is None or report.scores is None:
        return measured
    flags = np.array([settings.decide(float(score), threshold=threshold)["flag"] for score in report.scores])
    with_it, normal = flags[report.cases], flags[~report.cases]
    return measured._replace(
        unanswered=(_share(with_it == "abstain"), _share(normal == "abstain")), cleared=_share(normal == "")
    )


def measured_elsewhere(settings: CheckpointSettings, report: Report | None, threshold: float) -> list[Measured]:
    """Return the same of the films of other hospitals, of each of their sets where it was measured."""
    limit = settings.flagged_from(threshold)
    there = (_at_a_point(metrics, limit) for metrics in (report.external if report else ()))
    return [found for found in there if found]


def measured_at(report: Report | None, threshold: float) -> Measured | None:
    """Return what the report's test gives at a threshold; None without a report of it."""
    if report is None or report.curve is None:
        return None
    return _at_a_point(report.metrics, threshold) or _of_films(report.metrics, *report.at(threshold))


def _at_a_point(metrics: Mapping[str, Any], threshold: float) -> Measured | None:
    """What a report has at the threshold that it decided by, or at that of an operating point."""
    if threshold == metrics["decision_threshold"]["value"]:
        own = [Share(metrics["metrics"][name]["value"], *metrics["metrics"][name]["ci95"]) for name in NAMES]
        return Measured(own[0], own[1], *_counts(metrics), over_patients=True)
    row = next((row for row in metrics.get("operating_points", []) if row["threshold"] == threshold), None)
    return row and _of_films(metrics, *(row[name] for name in NAMES))


def _of_films(metrics: Mapping[str, Any], sensitivity: float, specificity: float) -> Measured:
    films, cases = _counts(metrics)
    return Measured(wilson(sensitivity, cases), wilson(specificity, films - cases), films, cases, over_patients=False)


def _counts(metrics: Mapping[str, Any]) -> tuple[int, int]:
    return metrics["n"], round(metrics["n"] * metrics["prevalence"])


def of_hundred(share: Share) -> str:
    """Say how many of a hundred films a share is."""
    return "none" if share.value == 0 else "fewer than 1" if share.value < 0.005 else f"{100 * share.value:.0f}"


def _share(films: np.ndarray) -> Share:
    return wilson(films.mean(), len(films))


def wilson(value: float, films: int) -> Share:
    """Return a share of so many films with its interval (Wilson 1927); films are taken as independent.

    By its formula, which the tests compare with scipy's: the page shows it at once, and scipy takes seconds to import.
    """
    if not films:
        return Share(*(float("nan"),) * 3)
    share = round(value * films) / films
    centre, half = share + Z**2 / (2 * films), Z * math.sqrt(share * (1 - share) / films + (Z / (2 * films)) ** 2)
    low, high = (centre - half) / (1 + Z**2 / films), (centre + half) / (1 + Z**2 / films)
    return Share(value, max(0.0, low), min(1.0, high))  # by a hair beyond, of none or all
