"""The names that others give their labels become ours."""

import difflib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS, PNEUMONIAS

logger = logging.getLogger(__name__)

NUMBERS = r"-?\d+(\.\d+)?|true|false"  # names that say nothing by themselves
NO_LABEL = {
    "healthy",
    "negative",
    "no finding",
    "no findings",
    "",
    "-1",
    "nan",
    "na",
    "n/a",
    "none",
    "null",
    "unknown",
    "uncertain",
    "unlabeled",
    "unlabelled",
    "?",
}
MOST_LABELS = 8  # that are taken from the data unasked
FEWEST = 0.01  # of the films, for a name to be a label unasked


class LabelNames:
    """From the names of a source (folders, a CSV's column, a Hub set's classes) to the numbers of `labels`.

    The labels themselves are known, in any case of letters, and of two labels also no and yes: 0 and 1, false and
    true. `bacteria` and `virus` are kinds of PNEUMONIA; where they are labels themselves, a film called pneumonia has
    the kind that its subtype says. `label_map` adds other names. `left_out` counts the names that have no label.

    Raises:
        InputError: `label_map` maps to something that is none of `labels`.
    """

    def __init__(self, labels: Sequence[str], label_map: Mapping[str, str] | None = None):
        self.labels = tuple(labels)
        self.left_out = Counter()
        self.joined = Counter()  # kinds of pneumonia that count as PNEUMONIA
        self.by_name = True  # whether no label that was found is a number, or false or true
        self.mapped = set(map(plain, label_map or {}))  # the names that the user gave
        kinds = PNEUMONIAS if "PNEUMONIA" in labels else ()
        self.numbers = {name.lower(): self.labels.index("PNEUMONIA") for name in kinds}
        self.numbers |= {label.lower(): number for number, label in enumerate(labels)}
        if len(labels) == 2:
            self.numbers |= {"0": 0, "1": 1, "false": 0, "true": 1}  # pneumonia: no, yes
        for name, label in (label_map or {}).items():
            if label.upper() not in self.labels:
                near = difflib.get_close_matches(label.upper(), self.labels, n=1, cutoff=0)[0]
                raise InputError(f"label_map: {name}={label}, but the labels are {', '.join(labels)}; {near}?")
            self.numbers[plain(name)] = self.labels.index(label.upper())

    def __contains__(self, name: str) -> bool:
        return plain(name) in self.numbers or plain(name) == "pneumonia"

    def number(self, name: str, subtype: str = "") -> int | None:
        """Look up the label of a film, or None, which is counted.

        Of several findings, `Effusion|Pneumonia`, the one that has a label counts; NORMAL only where nothing is beside
        it, and of two labels neither.

        Raises:
            InputError: it is a number of which nothing says what it means.
        """
        name = name.strip()
        parts = [name] if self._number_of(name, subtype) is not None else name.split("|")
        found = {self._number_of(part, subtype) for part in parts}
        if found == {0} or len(found - {0, None}) == 1:
            self.by_name = self.by_name and not re.fullmatch(NUMBERS, plain(name))
            if name.upper() in PNEUMONIAS - {*self.labels}:
                self.joined[name.upper()] += 1
            return max(number for number in found if number is not None)
        is_number = plain(name).isdecimal() and len(plain(name)) < 3  # longer ones are of patients
        if is_number and not any(known.isdecimal() for known in self.mapped):
            raise InputError(
                f"the label {name} is a number, and nothing says of what: name each with --label_map "
                f"{name}={self.labels[0]},..., and with --labels where they are more than two"
            )
        self.left_out[f"{name} of no known kind" if name.lower() == "pneumonia" else name] += 1
        return None

    def named(self, name: str, subtype: str = "") -> int | None:
        """Look up a folder's or a column's name that may be no label at all: by the labels' names alone."""
        is_name = plain(name) in self.mapped or not re.fullmatch(NUMBERS, plain(name))
        return self._number_of(name, subtype) if is_name else None

    def _number_of(self, name: str, subtype: str) -> int | None:
        number = self.numbers.get(plain(name))
        return self.numbers.get(subtype) if number is None and plain(name) == "pneumonia" else number

    def further_labels(self, films: int) -> list[str]:
        """Return the names left out that a data set of so many `films` has for labels of its own."""
        counts = Counter()
        for name, count in self.left_out.items():
            if plain(name) not in NO_LABEL and not re.search(r"[|,]|^\d", name):
                counts[name.strip().upper()] += count
        names = [name for name, count in counts.items() if count >= FEWEST * (films + self.left_out.total())]
        return sorted(names) if len(names) <= MOST_LABELS else []

    def report(self, source: str) -> None:
        """Log what was left out, with the remedy."""
        if self.left_out:
            counts = ", ".join(f"{count} {name or '(no label)'}" for name, count in self.left_out.most_common(8))
            logger.warning("%s: left out %s (a label_map, NAME=LABEL, would keep them)", source, counts)
        if self.joined:
            kinds = ", ".join(f"{count} {name}" for name, count in self.joined.items())
            told = ",".join(sorted(self.joined))
            logger.info("%s: %s count as PNEUMONIA (--labels NORMAL,%s tells them apart)", source, kinds, told)


def plain(name: str) -> str:
    """Return a name as it is compared: in small letters, a number without the decimals of tables of floats."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", name.strip().lower())


def assert_every_label(found: Iterable[int], labels: Sequence[str] = LABELS, *, message: str) -> None:
    """Raise InputError if a label is not among `found`; `{}` in the message is for the names of those missing."""
    missing = set(range(len(labels))) - set(found)
    if missing:
        raise InputError(f"{message.format(', '.join(labels[label] for label in missing))}; every label is needed")


def parse_labels(text: str | None) -> list[str] | None:
    """Parse `NORMAL,BACTERIA,VIRUS`; None where nothing is said."""
    return [name for name in text.split(",") if name.strip()] if text else None


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
