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
NO_LABEL = {"", "-1", "nan", "na", "n/a", "none", "null", "unknown", "uncertain", "unlabeled", "unlabelled", "?"}
NORMALS = ("no finding", "negative for pneumonia")  # what public sets call NORMAL, besides normal
AS_IF_NORMAL = {"healthy", "negative", "no findings"}  # which no one should take for a finding unasked
UNCERTAIN = " (uncertain)"  # after the name of a finding that a table has as -1
MOST_LABELS = 8  # that are taken from the data unasked
FEWEST = 0.01  # of the films, for a name to be a label unasked


class LabelNames:
    """From the names of a source (folders, a CSV's column, a Hub set's classes) to the numbers of `labels`.

    The labels themselves are known, in any case of letters, and `No Finding` as NORMAL (see NORMALS); of two labels
    also no and yes: 0 and 1, false and true. `bacteria` and `virus` are kinds of PNEUMONIA; where they are labels
    themselves, a film called pneumonia has the kind that its subtype says. `label_map` adds other names, and `others`
    what a public set calls them. `left_out` counts the names that have no label.

    Raises:
        InputError: `label_map` maps to something that is none of `labels`.
    """

    def __init__(self, labels: Sequence[str], label_map: Mapping[str, str] | None = None):
        self.labels = tuple(labels)
        self.left_out = Counter()
        self.joined = Counter()  # kinds of pneumonia that count as PNEUMONIA
        self.by_name = True  # whether no label that was found is a number, or false or true
        self.mapped = set(map(plain, label_map or {}))  # the names that the user gave
        self.others: Mapping[str, str] = {}  # what a public set calls them: for names that are not known without
        self.several = False  # whether a film can have several findings at once: then they are no labels
        kinds = PNEUMONIAS if "PNEUMONIA" in labels else ()
        self.numbers = {name.lower(): self.labels.index("PNEUMONIA") for name in kinds}
        self.numbers |= dict.fromkeys(NORMALS, 0)
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

        Of several findings, `Effusion|Pneumonia` or `['pneumonia', 'effusion']`, the one that has a label counts;
        NORMAL only where nothing is beside it, and of two labels neither.

        Raises:
            InputError: it is a number of which nothing says what it means.
        """
        name = name.strip()
        parts = [name] if self._number_of(name, subtype) is not None else findings(name)
        self.several |= len(parts) > 1
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
        if doubted := [part for part in parts if part.endswith(UNCERTAIN) and part.removesuffix(UNCERTAIN) in self]:
            name = doubted[0]
        unknown_kind = name.lower() == "pneumonia" and PNEUMONIAS & {*self.labels}
        self.left_out[f"{name} of no known kind" if unknown_kind else name] += 1
        return None

    def named(self, name: str, subtype: str = "") -> int | None:
        """Look up a folder's or a column's name that may be no label at all: by the labels' names alone."""
        is_name = plain(name) in self.mapped or not re.fullmatch(NUMBERS, plain(name))
        return self._number_of(name, subtype) if is_name else None

    def _number_of(self, name: str, subtype: str) -> int | None:
        known = plain(name)
        known = known if known in self.numbers else plain(self.others.get(known, known))
        number = self.numbers.get(known)
        return self.numbers.get(subtype) if number is None and known == "pneumonia" else number

    def further_labels(self, films: int) -> list[str]:
        """Return the names left out that a data set of so many `films` has for labels of its own.

        Where one film has several findings, they are none.
        """
        if self.several:
            return []
        counts = Counter()
        for name, count in self.left_out.items():
            if not (is_no_label(name) or plain(name) in AS_IF_NORMAL or re.search(r"[|,]|^\d", name)):
                counts[name.strip().upper()] += count
        names = [name for name, count in counts.items() if count >= FEWEST * (films + self.left_out.total())]
        return sorted(names) if len(names) <= MOST_LABELS else []

    def report(self, source: str) -> None:
        """Log what was left out, with the remedy."""
        if self.left_out:
            logger.warning("%s: left out %s (a label_map, NAME=LABEL, would keep them)", source, self.counts())
        if self.joined:
            kinds = ", ".join(f"{count} {name}" for name, count in self.joined.items())
            told = ",".join(sorted(self.joined))
            logger.info("%s: %s count as PNEUMONIA (--labels NORMAL,%s separates them)", source, kinds, told)

    def counts(self) -> str:
        """Write what was left out: the names that most films have, with how many."""
        shown = [f"{count} {name or '(no label)'}" for name, count in self.left_out.most_common(8)]
        return ", ".join(shown) + (", and others" if len(self.left_out) > 8 else "")


def is_no_label(name: str) -> bool:
    """Return whether a name says that nobody knows: blank, -1, unknown, ..."""
    return plain(name) in NO_LABEL


def findings(text: str) -> list[str]:
    """Split a list of findings, `Effusion|Pneumonia` or, as PadChest has it, `['pneumonia', 'effusion']`."""
    if text.startswith("[") and text.endswith("]"):
        parts = [part.strip().strip("'\"").strip() for part in text[1:-1].split(",")]
    else:
        parts = [part.strip() for part in text.split("|")]
    return [part for part in parts if part] or [""]


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
