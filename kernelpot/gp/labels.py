"""Labels as linear functionals of local energies: targets and their noise.

An energy is the sum of local energies, a force and a virial are minus their
derivatives. Each frame contributes rows in the order energy, forces (atom by atom,
x y z), virial (xx yy zz yz xz xy); missing labels have no row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kernelpot.common.types import KINDS, FloatArray, Group, IntArray
from kernelpot.data.dataset import Frame

# Labels whose noise the frame states itself.
ABSOLUTE: Group = ("absolute", "")
# A volume per atom above this multiple of the median is mostly vacuum.
VACUUM_RATIO = 3.0
# Noise of the label "an isolated atom has the energy e0" [eV].
SIGMA_ISOLATED = 1e-3


@dataclass(frozen=True)
class Noise:
    """Noise standard deviations of the labels.

    Parameters
    ----------
    sigma_energy : float
        Of an energy per atom [eV]: a total energy of N atoms has
        ``sigma_energy * sqrt(N)``.
    sigma_forces : float
        Of a force component [eV/Å].
    sigma_stress : float
        Of a stress component [eV/Å^3]: a virial of N atoms has
        ``sigma_stress * V/N * sqrt(N)``, V/N without vacuum.
    config_types : mapping of config type to mapping of kind to float
        Values that replace the above for some groups, e.g.
        ``{"Surface": {"energy": 0.005, "forces": 0.1}}``.
    bulk_volume : float
        Median volume per atom of the periodic frames [Å^3].
    """

    sigma_energy: float
    sigma_forces: float
    sigma_stress: float
    config_types: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bulk_volume: float = np.inf

    def __post_init__(self) -> None:
        """Check that every value is positive and every kind known."""
        for name in ("sigma_energy", "sigma_forces", "sigma_stress"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be positive, got {value!r}")
        for config_type, sigmas in self.config_types.items():
            unknown = set(sigmas) - set(KINDS)
            if unknown:
                raise ValueError(
                    f"`config_type_sigma` of {config_type!r} must name "
                    f"{', '.join(KINDS)}, got {sorted(unknown)}"
                )
            for kind, value in sigmas.items():
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(
                        f"`config_type_sigma` of {config_type!r}, {kind}, must be "
                        f"positive, got {value!r}"
                    )

    def changed(self, sigmas: Mapping[Group, float]) -> Noise:
        """The same with other noise parameters of some groups.

        Parameters
        ----------
        sigmas : mapping of group to float

        Returns
        -------
        Noise
        """
        config_types = {name: dict(own) for name, own in self.config_types.items()}
        for (kind, name), value in sigmas.items():
            if name:
                config_types[name][kind] = value
        whole = {f"sigma_{kind}": value for (kind, name), value in sigmas.items() if not name}
        return replace(self, config_types=config_types, **whole)

    def of(self, frame: Frame) -> tuple[tuple[Group, float], ...]:
        """Group of a frame's energy, forces and virial, and the noise in units of its sigma.

        The noise of a label is ``sigma(group) * unit``.
        """
        root = np.sqrt(len(frame))
        units = {"energy": root, "forces": 1.0, "stress": 1.0}
        if frame.virial is not None:
            volume = frame.atoms.get_volume() / len(frame)
            if volume > VACUUM_RATIO * self.bulk_volume:
                volume = self.bulk_volume
            units["stress"] = volume * root
        own = self.config_types.get(frame.config_type, {})
        stated = {"stress" if k == "virial" else k: v for k, v in frame.sigmas.items()}
        if frame.is_isolated_atom and "energy" not in own:
            stated.setdefault("energy", SIGMA_ISOLATED)
        return tuple(
            (ABSOLUTE, stated[kind])
            if kind in stated
            else ((kind, frame.config_type if kind in own else ""), units[kind])
            for kind in KINDS
        )

    def sigma(self, group: Group) -> float:
        """Noise parameter of a group of labels (1 where frames state their own)."""
        kind, config_type = group
        if group == ABSOLUTE:
            return 1.0
        if config_type:
            return float(self.config_types[config_type][kind])
        return float(getattr(self, f"sigma_{kind}"))


def bulk_volume(frames: Sequence[Frame]) -> float:
    """Median volume per atom of three-dimensionally periodic frames [Å^3]."""
    volumes = [f.atoms.get_volume() / len(f) for f in frames if np.all(f.atoms.pbc)]
    return float(np.median(volumes)) if volumes else np.inf


@dataclass(frozen=True)
class Observations:
    """Targets and noise of a run of frames, in the order of the covariance rows.

    Attributes
    ----------
    rows : ndarray of shape (n,)
        Index of each label in the full layout (all energies, then all forces, then
        all virials of the run).
    y, unit : ndarray of shape (n,)
        Labels, and their noise in units of their group's sigma.
    kind : ndarray of shape (n,)
        Index in `KINDS`.
    groups : list of Group
        The groups that occur, sorted.
    group : ndarray of shape (n,)
        Index of each label's group in `groups`.
    """

    rows: IntArray
    y: FloatArray
    unit: FloatArray
    kind: IntArray
    groups: list[Group]
    group: IntArray


def observe(frames: Sequence[Frame], noise: Noise) -> Observations:
    """Collect targets of frames.

    Parameters
    ----------
    frames : sequence of Frame
        Labels less what the kernels need not explain (`Reference.remainder`).
    noise : Noise

    Returns
    -------
    Observations
    """
    n_frames = len(frames)
    n_atoms = sum(map(len, frames))
    found: list[tuple[IntArray, FloatArray, int, Group, float]] = []
    first_atom = 0
    for index, frame in enumerate(frames):
        forces_start = n_frames + 3 * first_atom
        virial_start = n_frames + 3 * n_atoms + 6 * index
        starts = (index, forces_start, virial_start)
        labels: tuple[Any, ...] = (frame.energy, frame.forces, frame.virial)
        for kind, (start, label, (group, unit)) in enumerate(
            zip(starts, labels, noise.of(frame), strict=True)
        ):
            if label is not None:
                y = np.ravel(label)
                found.append((np.arange(start, start + len(y)), y, kind, group, unit))
        first_atom += len(frame)
    rows, targets, kinds, group_of, units = zip(*found, strict=True)
    groups = sorted(set(group_of))
    sizes = list(map(len, targets))
    return Observations(
        np.concatenate(rows),
        np.concatenate(targets),
        np.repeat(units, sizes),
        np.repeat(kinds, sizes),
        groups,
        np.repeat([groups.index(group) for group in group_of], sizes),
    )


def group_rows(frames: Sequence[Frame], noise: Noise) -> Counter[Group]:
    """Labels of each group that has any."""
    rows: Counter[Group] = Counter()
    for frame in frames:
        for (group, _), label in zip(
            noise.of(frame), (frame.energy, frame.forces, frame.virial), strict=True
        ):
            if label is not None:
                rows[group] += label.size if hasattr(label, "size") else 1
    return rows
