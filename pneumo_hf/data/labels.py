"""The names that others give their labels become ours."""

import difflib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS

logger = logging.getLogger(__name__)


class LabelNames:
    """From the names of a source (folders, a CSV's column, a Hub set's classes) to the numbers of `labels`.

    The labels themselves are known, in any case of letters, and so are `bacteria` and `virus`; `label_map` adds
    others. With three labels a film called pneumonia takes its kind from its subtype. `left_out` counts the names
    that have no label.

    Raises:
        InputError: `label_map` maps to something that is none of `labels`.
    """

    def __init__(self, labels: Sequence[str], label_map: Mapping[str, str] | None = None):
        self.labels = tuple(labels)
        self.left_out = Counter()
        self.mapped = set(label_map or {})  # the names that the user gave
        kinds = {"bacteria": "PNEUMONIA", "virus": "PNEUMONIA"} if "PNEUMONIA" in labels else {}
        self.numbers = {name.lower(): labels.index(label) for name, label in kinds.items()}
        self.numbers |= {label.lower(): number for number, label in enumerate(labels)}
        if len(labels) == 2:
            self.numbers |= {"0": 0, "1": 1}  # pneumonia: no, yes
        for name, label in (label_map or {}).items():
            if label.upper() not in self.labels:
                near = difflib.get_close_matches(label.upper(), self.labels, n=1, cutoff=0)[0]
                raise InputError(f"label_map: {name}={label}, but the labels are {', '.join(labels)}; {near}?")
            self.numbers[name.strip().lower()] = self.labels.index(label.upper())

    def __contains__(self, name: str) -> bool:
        return name.strip().lower() in self.numbers or name.strip().lower() == "pneumonia"

    def number(self, name: str, subtype: str = "") -> int | None:
        """Look up the label of a film, or None, which is counted."""
        name = name.strip()
        number = self.numbers.get(name.lower())
        if number is None and name.lower() == "pneumonia":
            number = self.numbers.get(subtype)
            name = f"{name} of no known kind"
        if number is None:
            self.left_out[name] += 1
        return number

    def report(self, source: str) -> None:
        """Log what was left out, with the remedy."""
        if self.left_out:
            counts = ", ".join(f"{count} {name or '(no label)'}" for name, count in self.left_out.most_common(8))
            logger.warning("%s: left out %s (a label_map, NAME=LABEL, would keep them)", source, counts)


def assert_every_label(found: Iterable[int], labels: Sequence[str] = LABELS, *, message: str) -> None:
    """Raise InputError if a label is not among `found`; `{}` in the message is for the names of those missing."""
    missing = set(range(len(labels))) - set(found)
    if missing:
        raise InputError(f"{message.format(', '.join(labels[label] for label in missing))}; every label is needed")


def parse_label_map(text: str | None) -> dict[str, str]:
    """Parse `{"COVID19": "PNEUMONIA"}` as JSON, or `COVID19=PNEUMONIA,No Finding=NORMAL`.

    Raises:
        InputError: it is neither.
    """
    if not text:
        return {}
    try:
        pairs = (
            json.loads(text) if text.lstrip().startswith("{") else dict(part.split("=", 1) for part in text.split(","))
        )
        return {str(name).strip(): str(label).strip() for name, label in pairs.items()}
    except ValueError as error:
        raise InputError(f"label_map: {text} is neither JSON nor NAME=LABEL,NAME=LABEL") from error
