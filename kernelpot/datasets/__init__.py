"""First-principles data that ship with kernelpot, so that everything can be tried at once.

Both sets were computed for kernelpot with the scripts in ``benchmarks/reference``; the
README beside the files says how, and what the levels of theory are good for.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Literal

from kernelpot.data.dataset import Dataset
from kernelpot.data.reading import read_dataset

Split = Literal["train", "test"]


def _load(name: str, split: str) -> Dataset:
    if split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', got {split!r}")
    resource = files("kernelpot.datasets") / "data" / f"{name}-{split}.xyz"
    with as_file(resource) as path:
        return read_dataset(path)


def load_silicon(split: Split = "train") -> Dataset:
    """Silicon: PBE plane waves, crystals, defects, surfaces, disorder, other phases.

    Energies [eV], forces [eV/Å] and, for bulk cells, virials [eV] of cells of 1 to 8
    atoms, with an isolated atom and a dimer curve.

    Parameters
    ----------
    split : {"train", "test"}
        Which part to load.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If there is no such part.

    Examples
    --------
    >>> from kernelpot.datasets import load_silicon
    >>> data = load_silicon()
    >>> data.symbols
    ['Si']
    """
    return _load("silicon", split)


def load_ethanol(split: Split = "train") -> Dataset:
    """Ethanol: PBE/def2-SVP along dynamics at 300 to 1,000 K, and torsion scans.

    Energies [eV] and forces [eV/Å] of a flexible molecule of C, H and O, with the three
    isolated atoms.

    Parameters
    ----------
    split : {"train", "test"}
        Which part to load.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If there is no such part.

    Examples
    --------
    >>> from kernelpot.datasets import load_ethanol
    >>> load_ethanol("test").symbols
    ['H', 'C', 'O']
    """
    return _load("ethanol", split)
