"""Area under the ROC curve, exact."""

import torch


def area_under_roc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """The chance that a positive sample has a higher score than a negative one, equal scores counting half.

    scores: (samples,) floating-point, labels: (samples,) 1 for positive and 0 for negative, any dtype.
    That is Mann and Whitney's U, from the ranks of the scores with ties averaged, divided by the number of pairs; NaN
    where a score is NaN or one class is absent. Ranks are added as integers: nothing is rounded before the division.
    """
    if scores.isnan().any():
        return float("nan")
    ordered, order = scores.sort()
    positive = labels[order] > 0
    _, group, size = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    twice_rank = 2 * size.cumsum(0) - size + 1  # of the group: the sum of its first rank and its last one
    positives = int(positive.sum())
    negatives = len(scores) - positives
    twice_u = int(twice_rank[group[positive]].sum()) - positives * (positives + 1)
    return twice_u / (2 * positives * negatives) if positives and negatives else float("nan")
