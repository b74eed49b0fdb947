"""Training data of Zuo et al., as it is or split once more for validation."""

import os

import numpy as np

import kernelpot as kp


def load(data_dir, element, validation=False):
    """Train and test frames; with `validation` a fifth of the training file is the test."""
    folder = os.path.join(data_dir, f"zuo2020-{element}")
    train = kp.read_dataset(os.path.join(folder, "train.xyz"))
    if not validation:
        return train, kp.read_dataset(os.path.join(folder, "test.xyz"))
    order = np.random.default_rng(1).permutation(len(train))
    n_test = len(train) // 5
    parts = (np.sort(order[n_test:]), np.sort(order[:n_test]))
    return tuple(kp.Dataset([train[int(k)] for k in part]) for part in parts)
