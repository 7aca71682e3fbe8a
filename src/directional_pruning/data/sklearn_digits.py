"""Handwritten digits that are part of scikit-learn: nothing is downloaded."""

from typing import Any

import numpy as np
import torch

from .images import Images, Splits

__all__ = ["digits"]

_TEST, _VALIDATION = 450, 135


def digits(device: str | torch.device = "cpu") -> Splits[Images]:
    """1,797 grey images of 8 x 8 pixels in [0, 1], ten classes: 1,212 to train, 135 to validate, 450 to test.

    The split is fixed and stratified by class. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten
    Digits, UCI Machine Learning Repository, 1998 (its test set, as shipped with scikit-learn).

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits need scikit-learn: pip install 'directional-pruning[digits]'") from error
    bunch: Any = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32, device=device).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64, device=device)

    indices = np.arange(len(bunch.target))
    rest, test = train_test_split(indices, test_size=_TEST, random_state=0, stratify=bunch.target)
    train, validation = train_test_split(rest, test_size=_VALIDATION, random_state=0, stratify=bunch.target[rest])
    return Splits(*(Images(images[part], labels[part]) for part in (train, validation, test)))
