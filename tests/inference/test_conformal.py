"""Limits within which neither label is certain enough."""

import numpy as np

from pneumo_hf.inference.conformal import conformal_limits, undecided


def test_each_label_is_left_out_as_often_as_was_stated() -> None:
    random, left_out = np.random.default_rng(0), {0: [], 1: []}
    for _ in range(300):
        labels = (random.random(400) < 0.7).astype(int)
        probs = 1 / (1 + np.exp(-(2.5 * (2 * labels - 1) + 1.5 * random.standard_normal(400))))
        limits = conformal_limits(labels[:200], probs[:200], 0.1)
        labels, probs = labels[200:], probs[200:]
        left_out[0].append(np.mean(probs[labels == 0] > limits["normal_up_to"]))
        left_out[1].append(np.mean(probs[labels == 1] < limits["pneumonia_from"]))
    assert 0.08 <= np.mean(left_out[0]) <= 0.1 and 0.08 <= np.mean(left_out[1]) <= 0.1


def test_the_middle_is_undecided_and_few_films_leave_no_label_out() -> None:
    between = {"normal_up_to": 0.3, "pneumonia_from": 0.8}  # neither label there
    assert undecided(np.array([0.1, 0.3, 0.5, 0.8, 0.9]), between).tolist() == [False, False, True, False, False]
    both = {"normal_up_to": 0.8, "pneumonia_from": 0.3}
    assert undecided(np.array([0.1, 0.3, 0.5, 0.8, 0.9]), both).tolist() == [False, True, True, True, False]
    assert conformal_limits(np.array([0, 1, 1]), np.array([0.2, 0.7, 0.9]), 0.05) is None
