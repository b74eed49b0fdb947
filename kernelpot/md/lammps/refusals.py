"""Settings of LAMMPS that would give wrong forces, or none, without a word: they are refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.md.lammps.library import Facts

# Fixes that neither read nor change forces where forces are made: they may act before kernelpot.
_HARMLESS = re.compile(
    r"(nve|nvt|npt|nph)(/.*)?|property/atom|store/.*|ave/.*|print|balance|halt|vector|momentum|"
    r"recenter|deform|box/relax|dt/reset|[A-Z_/]+"
)
# Charges agree within what is left of them in a text file [e].
_SAME_CHARGE = 1e-4
# Masses further than this from an element's are taken for another element's.
_MASS = 0.15
# Time steps that are not mistaken for femtoseconds or seconds [ps].
_TIMESTEPS = 1e-5, 0.02


def refuse_units(lmp: Any) -> None:
    """Refuse units other than metal, and accelerators that keep atoms elsewhere.

    Parameters
    ----------
    lmp : lammps.lammps

    Raises
    ------
    ValueError
    """
    units = lmp.extract_global("units")
    if units != "metal":
        raise ValueError(f"kernelpot speaks eV, Å and ps: `units metal`, not `units {units}`")
    if lmp.extract_setting("kokkos_active") > 0:
        raise ValueError(
            "with KOKKOS, LAMMPS keeps its atoms where kernelpot does not see them: start it "
            "without `-k on` and `-sf kk`"
        )
    refuse_respa(lmp)


def refuse_respa(lmp: Any) -> None:
    """Refuse `run_style respa`, which never asks for forces.

    Parameters
    ----------
    lmp : lammps.lammps

    Raises
    ------
    ValueError
    """
    if (lmp.extract_global("respa_levels") or 0) > 0:
        raise ValueError(
            "`run_style respa` never asks kernelpot for forces: use `run_style verlet`"
        )


def refuse_earlier_fixes(facts: Facts, allowed: Collection[str], fix: str) -> None:
    """Refuse fixes that act on forces before those of kernelpot are there.

    Parameters
    ----------
    facts : Facts
    allowed : collection of str
        Names of fixes of which the user knows that they may.
    fix : str
        That of kernelpot.

    Raises
    ------
    ValueError
    """
    if fix in facts.fixes:
        raise ValueError(
            f"there is a fix {fix!r} already: detach the potential that is there, or name another"
        )
    wrong = [
        f"{name} ({style})"
        for name, style in facts.fixes.items()
        if not _HARMLESS.fullmatch(style) and name not in allowed
    ]
    if wrong:
        raise ValueError(
            f"fixes act in the order of their definition, and before kernelpot's forces are there "
            f"would act {', '.join(wrong)}: define them after the pair_coeff of kernelpot "
            "(if that makes no difference, allow them: earlier_fixes)"
        )


def pair_commands(facts: Facts, r_cut: float) -> list[str]:
    """LAMMPS commands that make it keep a full list of neighbors up to the cutoff.

    Parameters
    ----------
    facts : Facts
    r_cut : float
        [Å].

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the pair style that is there leaves no room for that.
    """
    style, sub = facts.pair_style, list(facts.sub_styles)
    if style in ("none", "zero"):  # one that is there may be of half a list
        return [f"pair_style zero {r_cut:.17g} full", "pair_coeff * *"]
    if style == "hybrid/overlay" and sub.count("zero") == 1:
        return [f"pair_coeff * * zero {r_cut:.17g}"]
    if style.startswith("hybrid"):
        raise ValueError(
            f"`pair_style {style} {' '.join(sub)}`: beside other styles kernelpot is one of "
            "`hybrid/overlay`, with one `zero R full` for its neighbors, and acts on all atoms"
        )
    raise ValueError(
        f"there is a `pair_style {style}` already: kernelpot takes its place, or "
        f"`pair_style hybrid/overlay zero {r_cut:.2f} full {style} ...` has both"
    )


def refuse_without_long_range(facts: Facts, charges: Mapping[str, float]) -> None:
    """Refuse a model with charges whose Coulomb energy nobody sums.

    Parameters
    ----------
    facts : Facts
    charges : mapping of symbol to float
        Those of the model [e]; may be empty.

    Raises
    ------
    ValueError
    """
    if not charges:
        return
    summed = [s for s in facts.sub_styles if "coul/long" in s or "coul/msm" in s]
    if not summed or facts.kspace_style is None:
        told = ", ".join(f"{symbol} {charge:+.4g}" for symbol, charge in charges.items())
        raise ValueError(
            f"this model has charges ({told} e), whose Coulomb energy LAMMPS must sum: "
            "`pair_style hybrid/overlay kernelpot ... coul/long 9.0`, `pair_coeff * * coul/long`, "
            "and `kspace_style pppm 1e-6` before the pair_coeff of kernelpot; found pair styles "
            f"{' '.join(facts.sub_styles) or facts.pair_style} and kspace_style "
            f"{facts.kspace_style or 'none'}"
        )


def refuse_excluded_pairs(lmp: Any) -> None:
    """Refuse `special_bonds` that drop pairs of bonded atoms.

    Parameters
    ----------
    lmp : lammps.lammps

    Raises
    ------
    ValueError
    """
    if lmp.extract_setting("molecule_flag") < 1 or not (lmp.extract_global("nbonds") or 0):
        return
    weights = [lmp.extract_global(f"special_{kind}")[1:4] for kind in ("lj", "coul")]
    if any(weight != 1.0 for three in weights for weight in three):
        raise ValueError(
            "`special_bonds` leaves out pairs of bonded atoms, which kernelpot needs: set "
            "`special_bonds lj/coul 1 1 1`"
        )


def refuse_other_charges(
    lmp: Any, types: IntArray, tags: IntArray, expected: FloatArray
) -> FloatArray:
    """Refuse atoms that do not carry the charges of the model.

    Parameters
    ----------
    lmp : lammps.lammps
    types, tags : ndarray of shape (n_own,)
    expected : ndarray of shape (n_types + 1,)
        Charge of each type; the first is no type's [e].

    Returns
    -------
    ndarray of shape (n_own,)
        The charges [e].

    Raises
    ------
    ValueError
    """
    if lmp.extract_setting("q_flag") != 1:
        raise ValueError("this model has charges and the atoms have not: `atom_style charge`")
    if not len(types):
        return np.zeros(0)
    found = np.array(lmp.numpy.extract_atom("q", nelem=len(types))).reshape(-1)
    wrong = np.flatnonzero(np.abs(found - expected[types]) > _SAME_CHARGE)
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"atom {tags[first]} has the charge {found[first]:+.6g} e, in the model its species "
            f"has {expected[types[first]]:+.6g}: "
            f"`set type {types[first]} charge {expected[types[first]]:.10g}`"
        )
    return found


def doubtful_masses(masses: Sequence[float], numbers: Sequence[int]) -> str | None:
    """What is odd about masses of types, if anything: elements in a wrong order.

    Parameters
    ----------
    masses : sequence of float
        Of each type [u]; 0 for one not set.
    numbers : sequence of int
        Atomic number of each.

    Returns
    -------
    str or None
    """
    for kind, (mass, z) in enumerate(zip(masses, numbers, strict=True), start=1):
        usual = float(atomic_masses[z])
        heavy_hydrogen = z == 1 and mass < 3.1
        if mass > 0 and abs(mass - usual) > _MASS * usual and not heavy_hydrogen:
            return (
                f"type {kind} has a mass of {mass:g} u, but is {chemical_symbols[z]} ({usual:g} u) "
                "for kernelpot: are the elements in the order of the types?"
            )
    return None


def doubtful_timestep(timestep: float) -> str | None:
    """What is odd about a time step, if anything: that it is not in picoseconds.

    Parameters
    ----------
    timestep : float
        [ps], as in ``units metal``.

    Returns
    -------
    str or None
    """
    if _TIMESTEPS[0] <= timestep <= _TIMESTEPS[1]:
        return None
    return (
        f"timestep {timestep:g} is {1e3 * timestep:g} fs, as times are in picoseconds (units "
        "metal): atoms need steps of about 1 fs, which is timestep 0.001"
    )
