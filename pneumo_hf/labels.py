"""What a data set and a checkpoint tell apart, and the one question that is decided."""

from collections.abc import Sequence
from dataclasses import dataclass

from pneumo_hf.errors import InputError

NEGATIVE = "NORMAL"
PNEUMONIAS = {"PNEUMONIA", "BACTERIA", "VIRUS"}  # together they are called by the first
OTHERWISE = "ABNORMAL"  # what any other mixture of labels is called


@dataclass(frozen=True)
class Task:
    """The labels in the order of their numbers, NORMAL first, and what a film that is not normal is called.

    Scores have one column a label. The decision is one, whatever the number of labels: P(positive) = 1 - P(NORMAL)
    against a threshold.

    >>> Task.of(["NORMAL", "BACTERIA", "VIRUS"]).positive, Task.of(["NORMAL", "PNEUMONIA", "COVID19"]).positive
    ('PNEUMONIA', 'ABNORMAL')
    """

    labels: tuple[str, ...] = (NEGATIVE, "PNEUMONIA")
    positive: str = "PNEUMONIA"

    @classmethod
    def of(cls, names: Sequence[str]) -> "Task":
        """Make the task of these labels, in any order and case of letters.

        Raises:
            InputError: NORMAL is not among them, is alone, or one is there twice, is empty or has a comma.
        """
        given = [name.strip().upper() for name in names]
        labels = (NEGATIVE, *(name for name in given if name != NEGATIVE))
        unnamed = any(not name or "," in name or not name.isprintable() for name in given)
        if NEGATIVE not in given or len(labels) < 2 or len(set(given)) < len(given) or unnamed:
            raise InputError(
                f"the labels must be {NEGATIVE} and others, each once and without commas, and are {', '.join(names)}"
            )
        others = labels[1:]
        if len(others) == 1:
            return cls(labels, others[0])
        return cls(labels, "PNEUMONIA" if set(others) <= PNEUMONIAS - {"PNEUMONIA"} else OTHERWISE)

    @property
    def is_binary(self) -> bool:
        """Whether there are two labels: then the decision says all."""
        return len(self.labels) == 2

    @property
    def finding(self) -> str:
        """What a film that is not normal shows, in a sentence."""
        return "a finding" if self.positive == OTHERWISE else self.positive.lower()


def column_of(label: str) -> str:
    """Name the column of a predictions CSV with the probability of a label, where there are more than two."""
    return f"probability_{label}"


LABELS = Task().labels
