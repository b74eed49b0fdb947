"""Bounds of temperature and energy that no process in matter leaves, only a bad potential."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from ase import Atoms, units
from scipy.special import chdtri

# Chance that a fluctuation reaches further at any step; the heat below comes on top.
RARE = 1e-9
# Heat that turns into kinetic energy all at once [eV/atom]: that of explosives, several
# times that of crystallization.
HEAT = 0.5
# Energy that a single atom gains where it is bound [eV]: the strongest bond is that of CO.
STRONGEST_BOND = 11.0
# Share of the kinetic energy, and energy [eV/atom], by which that of an integrated trajectory
# may move: with ten steps per period it fluctuates by a tenth of the potential energy.
DRIFT_SHARE, DRIFT = 0.25, 0.1


@dataclass(frozen=True)
class Bounds:
    """What temperature and energy of a run may become; infinity for no bound.

    The defaults are so wide that relaxation, crystallization, reactions and the
    fluctuations of a few atoms stay inside. Processes with more heat need wider ones: a few
    atoms that form strong bonds at constant energy, or a start that stores 1 eV/atom
    (silicon whose coordinates are rattled by 0.25 Å).

    Parameters
    ----------
    max_temperature : float, optional
        Of all atoms, at any step [K]. Default: what a fluctuation of their kinetic energy
        reaches with a chance of 1e-9, and 3,868 K for a heat of 0.5 eV per atom (that of
        explosives) added.
    max_atom_energy : float, optional
        Kinetic energy of any single atom [eV]. Default: likewise, and the energy of the
        strongest bond, 11 eV, added.
    max_energy_drift : float, optional
        Change of the total energy since the start [eV/atom]; nve only. Default: 0.1 and
        a quarter of the kinetic energy at the start.
    max_energy_fall : float, default=10.0
        Fall of the potential energy since the start [eV/atom]. No solid has a larger
        cohesive energy.

    Raises
    ------
    ValueError
        If a bound is not positive.
    """

    max_temperature: float | None = None
    max_atom_energy: float | None = None
    max_energy_drift: float | None = None
    max_energy_fall: float = 10.0

    def __post_init__(self) -> None:
        """Refuse bounds that every run leaves, or none could."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"`{field.name}` must be positive, got {value!r}")


def as_bounds(bounds: Bounds | bool | None) -> Bounds:
    """Return the bounds meant: True for the defaults, False or None for none."""
    if isinstance(bounds, Bounds):
        return bounds
    return Bounds() if bounds else Bounds(math.inf, math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Breach:
    """A bound that a run has left.

    Attributes
    ----------
    quantity : str
        "energy" (no longer finite), or the field of `Bounds`.
    value, bound : float
        What was found, and the bound, in the unit of that field.
    text : str
        What happened, without saying when.
    """

    quantity: str
    value: float
    bound: float
    text: str


class Watch:
    """Compares a run with its bounds.

    Parameters
    ----------
    bounds : Bounds
    atoms : ase.Atoms
        At the start, with momenta and calculator.
    temperature : float
        Of the initial velocities and the thermostat [K].
    conserved : bool
        Whether the total energy is.

    Attributes
    ----------
    bounds : dict of str to float
        Every field of `Bounds`, with what is default filled in.
    """

    def __init__(self, bounds: Bounds, atoms: Atoms, temperature: float, conserved: bool) -> None:
        self._n_dof = max(1, atoms.get_number_of_degrees_of_freedom())
        self._potential = atoms.get_potential_energy()
        kinetic = atoms.get_kinetic_energy()
        self._total = self._potential + kinetic
        self.bounds = _default_bounds(len(atoms), self._n_dof, temperature, kinetic / len(atoms))
        given = {field.name: getattr(bounds, field.name) for field in fields(bounds)}
        self.bounds |= {name: value for name, value in given.items() if value is not None}
        if not conserved:
            self.bounds["max_energy_drift"] = math.inf

    def breach(self, atoms: Atoms) -> Breach | None:
        """Return the first bound that the present state leaves, if any.

        Energy that is not conserved comes first: it is a cause of the others.
        """
        n, potential = len(atoms), atoms.get_potential_energy()
        kinetic = 0.5 * (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
        total = potential + kinetic.sum()
        if not np.isfinite(total):
            return Breach("energy", float(total), math.inf, "the energy is no longer finite")
        fastest = int(kinetic.argmax())
        states = {
            "max_energy_drift": (
                abs(total - self._total) / n,
                "the total energy, which is conserved, has changed by",
                "eV/atom",
            ),
            "max_temperature": (
                2 * kinetic.sum() / (self._n_dof * units.kB),
                "the temperature has become",
                "K",
            ),
            "max_atom_energy": (
                kinetic[fastest],
                f"atom {fastest}, {atoms[fastest].symbol}, has a kinetic energy of",
                "eV",
            ),
            "max_energy_fall": (
                (self._potential - potential) / n,
                "the potential energy has fallen by",
                "eV/atom",
            ),
        }
        for quantity, (value, text, unit) in states.items():
            bound = self.bounds[quantity]
            if value > bound:
                digits = ".0f" if unit == "K" else ".3g"
                text = f"{text} {value:{digits}} {unit}, more than {bound:{digits}} {unit}"
                return Breach(quantity, float(value), bound, text)
        return None


def _default_bounds(
    n_atoms: int, n_dof: int, temperature: float, kinetic: float
) -> dict[str, float]:
    """Fields of `Bounds`, for a temperature [K] and the kinetic energy at the start [eV/atom]."""
    # twice the kinetic energy, in units of kT, has a chi-square distribution
    thermal = units.kB * temperature
    heat = HEAT / (1.5 * units.kB)
    # each of the atoms has its chance to be the fastest
    fastest = 0.5 * thermal * chdtri(3, RARE / n_atoms)
    return {
        "max_temperature": temperature * chdtri(n_dof, RARE) / n_dof + heat,
        "max_atom_energy": fastest + STRONGEST_BOND,
        "max_energy_drift": DRIFT + DRIFT_SHARE * max(1.5 * thermal, kinetic),
    }
