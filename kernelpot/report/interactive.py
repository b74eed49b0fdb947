"""Environments with their structures for chemiscope, to be turned and clicked through."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kernelpot.data.dataset import Dataset
from kernelpot.report.diagnosis import Diagnosis

# What is shown around the atom of an environment [Å].
CUTOFF = 4.0


def check_chemiscope(path: str | os.PathLike[str]) -> None:
    """Refuse what cannot be written, before any long work.

    Parameters
    ----------
    path : path

    Raises
    ------
    ImportError
        If chemiscope is not installed.
    ValueError
        If the file has another ending than chemiscope's.
    """
    if not os.fspath(path).endswith((".json", ".json.gz")):
        raise ValueError(f"a file for chemiscope ends in .json or .json.gz, got {path}")
    try:
        import chemiscope  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "chemiscope is not installed: pip install chemiscope (or kernelpot[chemiscope])"
        ) from error


def write_chemiscope(
    path: str | os.PathLike[str], data: Dataset, diagnosis: Diagnosis, title: str
) -> None:
    """Write the maps of a report, every environment with its structure.

    Parameters
    ----------
    path : path
    data : Dataset
    diagnosis : Diagnosis
        Its maps; components of different species do not compare.
    title : str

    Raises
    ------
    ValueError
        If there is no map.
    """
    import chemiscope

    maps = diagnosis.maps
    if not maps:
        raise ValueError("no term of this model compares whole environments of atoms: no map")
    # in the order of structures and atoms, which is chemiscope's own
    structure = np.concatenate([found.structure for found in maps])
    center = np.concatenate([found.center for found in maps])
    order = np.lexsort((center, structure))
    x = np.concatenate([found.x for found in maps])[order]
    std = np.concatenate([found.std for found in maps])[order]
    symbol = np.repeat([found.symbol for found in maps], [len(found.x) for found in maps])[order]
    group = np.concatenate([found.groups for found in maps])[order]
    shown = np.unique(structure)
    number = {int(index): k for k, index in enumerate(shown)}

    def of_atoms(values: Any, **about: str) -> dict[str, Any]:
        return {"target": "atom", "values": values, **about}

    chemiscope.write_input(
        os.fspath(path),
        structures=[data[int(index)].atoms for index in shown],
        properties={
            "first component": of_atoms(x[:, 0], description="principal component of features"),
            "second component": of_atoms(x[:, 1], description="principal component of features"),
            "local std": of_atoms(std, units="eV", description="standard deviation of the energy"),
            "species": of_atoms(symbol.tolist()),
            "config type": of_atoms(group.tolist()),
        },
        environments=[
            (number[int(s)], int(c), CUTOFF)
            for s, c in zip(structure[order], center[order], strict=True)
        ],
        metadata={"name": title},
    )
