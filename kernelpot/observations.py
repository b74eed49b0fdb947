"""Labels as linear functionals of local energies: targets and their noise.

An energy is the sum of local energies, a force and a virial are minus their
derivatives. Each frame contributes rows in the order energy, forces (atom by atom,
x y z), virial (xx yy zz yz xz xy); missing labels have no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kernelpot.dataset import Frame

FloatArray = npt.NDArray[np.float64]

KINDS = ("energy", "forces", "stress")
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

    def of(self, frame: Frame) -> tuple[float, float, float]:
        """Absolute noise of a frame: total energy, force component, virial component."""
        own = self.config_types.get(frame.config_type, {})
        root = np.sqrt(len(frame))
        energy = own.get("energy", self.sigma_energy) * root
        if frame.is_isolated_atom and "energy" not in own:
            energy = SIGMA_ISOLATED
        forces = own.get("forces", self.sigma_forces)
        virial = 1.0
        if frame.virial is not None:
            volume = frame.atoms.get_volume() / len(frame)
            if volume > VACUUM_RATIO * self.bulk_volume:
                volume = self.bulk_volume
            virial = own.get("stress", self.sigma_stress) * volume * root
        absolute = frame.sigmas
        return (
            absolute.get("energy", energy),
            absolute.get("forces", forces),
            absolute.get("virial", virial),
        )


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
    y, sigma : ndarray of shape (n,)
        Labels minus the reference, and their noise, in the unit of the label.
    """

    rows: npt.NDArray[np.int64]
    y: FloatArray
    sigma: FloatArray


def observe(
    frames: Sequence[Frame],
    references: Sequence[tuple[float, FloatArray, FloatArray]],
    noise: Noise,
) -> Observations:
    """Collect targets of frames.

    Parameters
    ----------
    frames : sequence of Frame
    references : sequence of (energy, forces, virial)
        What the model does not have to learn: isolated-atom energies and baseline.
    noise : Noise

    Returns
    -------
    Observations
    """
    n_frames = len(frames)
    n_atoms = sum(map(len, frames))
    rows: list[npt.ArrayLike] = []
    y: list[npt.ArrayLike] = []
    sigma: list[npt.ArrayLike] = []
    first_atom = 0
    for index, (frame, (energy0, forces0, virial0)) in enumerate(
        zip(frames, references, strict=True)
    ):
        sigma_energy, sigma_forces, sigma_virial = noise.of(frame)
        if frame.energy is not None:
            rows.append([index])
            y.append([frame.energy - energy0])
            sigma.append([sigma_energy])
        if frame.forces is not None:
            start = n_frames + 3 * first_atom
            rows.append(np.arange(start, start + 3 * len(frame)))
            y.append((frame.forces - forces0).ravel())
            sigma.append(np.full(3 * len(frame), sigma_forces))
        if frame.virial is not None:
            start = n_frames + 3 * n_atoms + 6 * index
            rows.append(np.arange(start, start + 6))
            y.append(frame.virial - virial0)
            sigma.append(np.full(6, sigma_virial))
        first_atom += len(frame)
    return Observations(
        np.concatenate(rows).astype(np.int64), np.concatenate(y), np.concatenate(sigma)
    )
