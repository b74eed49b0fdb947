"""Data sets as they are, or the training file split once more for validation."""

import os

import numpy as np

import kernelpot as kp


def load(data_dir, name, validation=False):
    """Train and test frames of a folder, or of an element of Zuo et al.

    With `validation` a fifth of the training file is the test.
    """
    folder = os.path.join(data_dir, name)
    if not os.path.isdir(folder):
        folder = os.path.join(data_dir, f"zuo2020-{name}")
    train = kp.read_dataset(os.path.join(folder, "train.xyz"))
    if not validation:
        return train, kp.read_dataset(os.path.join(folder, "test.xyz"))
    order = np.random.default_rng(1).permutation(len(train))
    n_test = len(train) // 5
    parts = (np.sort(order[n_test:]), np.sort(order[:n_test]))
    return tuple(kp.Dataset([train[int(k)] for k in part]) for part in parts)
