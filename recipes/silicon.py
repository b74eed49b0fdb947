"""The potential that the recipes share: silicon, fitted once."""

import os

import kernelpot as kp
from kernelpot.datasets import load_silicon


def potential(path="silicon.kpot"):
    """Load silicon.kpot, or fit it to the shipped data (half a minute)."""
    if not os.path.exists(path):
        kp.KernelPotential(preset="fast").fit(load_silicon("train")).save(path)
    return kp.load(path)
