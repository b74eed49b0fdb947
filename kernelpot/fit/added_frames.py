"""What is fitted beside the data: isolated atoms, and a pressure that is taken for granted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa

from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.gp.labels import SIGMA_ISOLATED

# Crystals have less volume per atom than this [Å^3], molecules in boxes more; volumes that
# differ by a smaller share than this are one.
CRYSTAL, ONE_VOLUME = 60.0, 0.01
# Where the data tell no pressure, that of their structure of lowest energy is taken as zero to
# within this [GPa]. Kernels alone say something of it, and are wrong: of PbTe 9 GPa, with a
# standard deviation of 1.3, and cells that relax fall 0.1 eV/atom below the data.
SIGMA_PRESSURE = 1.0
ASSUMED = "assumed pressure"
# How the shortcoming is called.
NO_PRESSURE = "no pressure"


def with_added_frames(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    """Frames to fit: those of the data, isolated atoms, and an assumed pressure.

    Parameters
    ----------
    data : Dataset
    e0 : AtomicEnergies

    Returns
    -------
    list of Frame
        Each species with a known e0 has one isolated atom of that energy, in place of those of
        the data. Where `one_volume` says that nothing tells the pressure, the structure of
        lowest energy is there a second time, with a virial of zero for its only label.
    """
    return [*_with_isolated_atoms(data, e0), *_assumed_pressure(data, e0)]


def is_assumed(frame: Frame) -> bool:
    """Whether the labels of a frame are no data, but what is taken for granted."""
    return frame.config_type == ASSUMED and frame.sources.get("virial") == ASSUMED


def one_volume(data: Sequence[Frame]) -> float | None:
    """Volume per atom of crystals of one volume without stresses: nothing tells their pressure.

    Parameters
    ----------
    data : sequence of Frame

    Returns
    -------
    float or None
        [Å^3]; None where there are stresses, other volumes, or structures without a cell.
    """
    volumes = [
        frame.atoms.get_volume() / len(frame)
        for frame in data
        if len(frame) > 1 and frame.atoms.pbc.all()
    ]
    if not volumes or max(volumes) > CRYSTAL or any(frame.virial is not None for frame in data):
        return None
    if max(volumes) > (1.0 + ONE_VOLUME) * min(volumes):
        return None
    return float(np.mean(volumes))


def _with_isolated_atoms(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    frames = [f for f in data if not (f.is_isolated_atom and e0.absolute)]
    if e0.absolute:
        for z, energy in e0.e0.items():
            atoms = Atoms(numbers=[z], positions=np.zeros((1, 3)))
            frames.append(
                Frame(
                    atoms,
                    energy,
                    None,
                    None,
                    "isolated_atom",
                    f"isolated {chemical_symbols[z]}",
                    {"energy": e0.origin},
                    {"energy": SIGMA_ISOLATED},
                )
            )
    return frames


def _assumed_pressure(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    if one_volume(data) is None:
        return []
    energies = {
        k: (frame.energy - e0.total(frame.atoms.numbers)) / len(frame)
        for k, frame in enumerate(data)
        if frame.energy is not None and len(frame) > 1 and frame.atoms.pbc.all()
    }
    if not energies:
        return []
    lowest = data[min(energies, key=energies.__getitem__)]
    atoms = lowest.atoms
    sigma = SIGMA_PRESSURE * GPa * atoms.get_volume()
    return [
        Frame(
            atoms,
            None,
            None,
            np.zeros(6),
            ASSUMED,
            f"{ASSUMED} of {lowest.name}",
            {"virial": ASSUMED},
            {"virial": sigma},
        )
    ]
