"""The operating points of a checkpoint by plain names, and what the report's test measured at a threshold."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from pneumo_hf.app.model_tab import Report
from pneumo_hf.evaluation.operating_points import DEFAULT
from pneumo_hf.inference.settings import CheckpointSettings

NAMES = ("sensitivity", "specificity")
Z = NormalDist().inv_cdf(0.975)  # of an interval of 95 %


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
        return Share(1 - self.value, max(0.0, 1 - self.high), 1 - self.low)  # Wilson's reach a hair above 1


class Measured(NamedTuple):
    """Sensitivity and specificity at a threshold, on the films of a report's test."""

    sensitivity: Share
    specificity: Share
    films: int
    over_patients: bool  # the intervals: the report's own, by resampling patients; else Wilson's, of films


def offered(settings: CheckpointSettings) -> list[Point]:
    """Choose the operating points to offer, by rising threshold, each by what it does beside the others.

    A point that was chosen for a sensitivity can give fewer false alarms than one that was chosen for a specificity:
    their order says what they do, whatever they were chosen for.

    >>> points = [{"name": name, "threshold": cut} for name, cut in (("youden", 0.3), ("f1", 0.4), ("cost@5", 0.1))]
    >>> [point.plain for point in offered(CheckpointSettings(0.4, "f1", points))]
    ['Miss few', 'Balanced', 'Few false alarms']
    """
    ladder = sorted(settings.thresholds.items(), key=lambda point: point[1])
    plain = {settings.method: "The model's own"}
    if ladder[0][1] < ladder[-1][1]:
        plain |= {ladder[0][0]: "Miss few", ladder[-1][0]: "Few false alarms"}
    if DEFAULT in settings.thresholds:
        plain[DEFAULT] = "Balanced"
    own_first = sorted(plain, key=lambda name: name != settings.method)
    chosen = {
        settings.thresholds[name]: Point(name, plain[name], settings.thresholds[name]) for name in own_first[::-1]
    }
    return [chosen[cut] for cut in sorted(chosen)]


def point_choices(settings: CheckpointSettings, report: Report | None) -> list[tuple[str, str]]:
    """Write the points to offer with what they measured, each beside its name in `config.json`."""
    choices = []
    for point in offered(settings):
        measured = measured_at(report, point.threshold)
        shares = ""
        if measured:
            shares = f": {measured.sensitivity.value:.1%} sensitive, {measured.specificity.value:.1%} specific"
        choices.append((f"{point.plain}{shares}", point.name))
    return choices


def own_point(settings: CheckpointSettings) -> Point:
    """Return the operating point that the model decides by."""
    return next(point for point in offered(settings) if point.threshold == settings.threshold)


def measured_at(report: Report | None, threshold: float) -> Measured | None:
    """Return what the report's test gives at a threshold; None without a report of it."""
    if report is None or report.curve is None:
        return None
    found = report.metrics
    films, cases = found["n"], round(found["n"] * found["prevalence"])
    if threshold == found["decision_threshold"]["value"]:
        own = {name: Share(found["metrics"][name]["value"], *found["metrics"][name]["ci95"]) for name in NAMES}
        return Measured(**own, films=films, over_patients=True)
    rows: list[Mapping[str, Any]] = found.get("operating_points", [])
    point = next((row for row in rows if row["threshold"] == threshold), None)
    sensitivity, specificity = (point[name] for name in NAMES) if point else report.at(threshold)
    return Measured(wilson(sensitivity, cases), wilson(specificity, films - cases), films, False)


def wilson(value: float, films: int) -> Share:
    """Return a share of so many films with its interval (Wilson 1927); films are taken as independent.

    By its formula, which the tests compare with scipy's: the page shows it at once, and scipy takes seconds to import.
    """
    if not films:
        return Share(*(float("nan"),) * 3)
    share = round(value * films) / films
    centre, half = share + Z**2 / (2 * films), Z * math.sqrt(share * (1 - share) / films + (Z / (2 * films)) ** 2)
    return Share(value, (centre - half) / (1 + Z**2 / films), (centre + half) / (1 + Z**2 / films))
