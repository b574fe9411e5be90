"""ROC and decision curve of a report as SVG, with a threshold marked: they are crisp at any size, light and dark."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 400, 300, 50, 40, 12, 10  # of a picture and its margins
Line = tuple[np.ndarray, np.ndarray]  # x and y


class DecisionCurve(NamedTuple):
    """Net benefit per film at thresholds `[T]`: the model's, its interval `[2, T]` if known, and flagging all's."""

    thresholds: np.ndarray
    model: np.ndarray
    band: np.ndarray | None
    treat_all: np.ndarray


def decision_curve(metrics: Mapping[str, Any], rates: np.ndarray) -> DecisionCurve:
    """Read the decision curve of a report, or of an older one compute it from its rates, without an interval.

    Args:
        metrics: of `metrics.json`.
        rates: sensitivity and specificity `[K, 2]` at K thresholds from 0 to 1.
    """
    if found := metrics.get("decision_curve"):
        parts = [np.array(found[name]) for name in ("thresholds", "model", "ci95", "treat_all")]
        return DecisionCurve(parts[0], parts[1], parts[2].T, parts[3])
    at, share = np.linspace(0, 1, len(rates))[1:-1], metrics["prevalence"]
    sensitivity, specificity = rates[1:-1].T
    odds = at / (1 - at)
    model = share * sensitivity - (1 - share) * (1 - specificity) * odds
    return DecisionCurve(at, model, None, share - (1 - share) * odds)


def roc_svg(rates: np.ndarray, at: tuple[float, float], others: Sequence[tuple[float, float]]) -> str:
    """Draw a ROC curve.

    Args:
        rates: sensitivity and specificity `[K, 2]`. at: of the threshold in use. others: of the operating points.
    """
    frame = _Frame((0, 1), (0, 1), "1 - specificity", "sensitivity", "ROC curve")
    curve = 1 - rates[::-1, 1], rates[::-1, 0]
    dots = "".join(frame.dot(1 - specificity, sensitivity, "point") for sensitivity, specificity in others)
    parts = frame.line((np.array([0.0, 1.0]), np.array([0.0, 1.0])), "chance"), frame.line(curve, "model"), dots
    return frame.svg("".join(parts) + frame.dot(1 - at[1], at[0], "mark"))


def decision_svg(curve: DecisionCurve, threshold: float) -> str:
    """Draw a decision curve against flagging every film and none, the threshold as a line."""
    top = float(max(curve.treat_all.max(), curve.model.max(), 0.001))
    frame = _Frame(
        (0, 1), (-0.15 * top, 1.05 * top), "threshold probability", "net benefit per film", "Decision curve"
    )
    parts = []
    if curve.band is not None:
        both = np.concatenate([curve.thresholds, curve.thresholds[::-1]])
        parts.append(frame.line((both, np.concatenate([curve.band[0], curve.band[1][::-1]])), "band"))
    parts += [
        frame.line((np.array([0.0, 1.0]), np.zeros(2)), "none"),
        frame.line((curve.thresholds, curve.treat_all), "every"),
        frame.line((curve.thresholds, curve.model), "model"),
        frame.line((np.full(2, threshold), np.array(frame.y)), "cut"),
    ]
    return frame.svg("".join(parts))


class _Frame:
    """Axes of a picture, from values to places in it."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str, title: str):
        self.x, self.y, self.labels, self.title = x, y, (x_label, y_label), title

    def places(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the picture; what lies outside the axes is brought to their edge."""
        (x_low, x_high), (y_low, y_high) = self.x, self.y
        inside = (np.clip(y, y_low, y_high) - y_low) / (y_high - y_low)
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low),
            HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * inside,
        )

    def line(self, points: Line, kind: str) -> str:
        inside = (points[1] >= self.y[0]) | (kind == "band")
        places = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(*self.places(points[0][inside], points[1][inside]), strict=True)
        )
        return f"<polyline class='{kind}' points='{places}'/>"

    def dot(self, x: float, y: float, kind: str) -> str:
        across, down = self.places(np.array(x), np.array(y))
        return f"<circle class='{kind}' cx='{across:.1f}' cy='{down:.1f}' r='{6 if kind == 'mark' else 3}'/>"

    def svg(self, content: str) -> str:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        texts = [
            f"<text x='{(LEFT + right) / 2}' y='{HEIGHT - 6}' text-anchor='middle'>{self.labels[0]}</text>",
            f"<text transform='translate(12 {(TOP + bottom) / 2}) rotate(-90)' text-anchor='middle'>"
            f"{self.labels[1]}</text>",
        ]
        for x in (0, 0.5, 1):
            across = self.places(np.array(x), np.array(0))[0]
            texts.append(f"<text x='{across:.1f}' y='{bottom + 16}' text-anchor='middle'>{x}</text>")
        step = 0.5 if self.y[1] >= 1 else 0.2 if self.y[1] > 0.2 else 0.05
        for y in np.arange(0, self.y[1] + 1e-9, step):
            down = self.places(np.array(0), np.array(y))[1]
            texts.append(f"<text x='{LEFT - 6}' y='{down + 4:.1f}' text-anchor='end'>{y:.2g}</text>")
        frame = f"<path class='frame' d='M{LEFT} {TOP}V{bottom}H{right}'/>"
        return (
            f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{self.title}'>"
            f"{frame}{content}{''.join(texts)}</svg>"
        )
