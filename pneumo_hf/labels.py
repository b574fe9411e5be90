"""The labels of every data set and checkpoint, in the order of their numbers."""

LABELS = ("NORMAL", "PNEUMONIA")
NEGATIVE, POSITIVE = LABELS
CLASSES = {2: LABELS, 3: ("NORMAL", "BACTERIA", "VIRUS")}  # what `--classes` of audit and prepare offers
