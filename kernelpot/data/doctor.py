"""The label doctor: what was read, and whether it can be right.

Energies, forces and virials are derivatives of one function; wherever the data allow it
(strained copies of a cell, frames that nearly coincide) they are tested against each
other, which finds wrong signs, wrong units and labels that belong to another frame. A small
model fitted to the forces does so for all others (`kernelpot.data.consistency`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa, bar

from kernelpot.common.cards import card, folded
from kernelpot.common.types import FloatArray
from kernelpot.data.consistency import compare_labels, is_tested, label_warnings
from kernelpot.data.dataset import Dataset, Frame, is_isolated_name, label_sources
from kernelpot.data.doctor_text import data_report_text
from kernelpot.data.label_names import lost_labels, unread_labels
from kernelpot.data.order import digest, structure_digest
from kernelpot.data.symmetry import forces_vanish_by_symmetry

# Strained copies further apart than this are not compared (trapezoid rule).
_MAX_STRAIN = 0.06
# d(bulk modulus)/d(pressure) - 2, about that of all solids: the error of the trapezoid rule.
_HARDENING = 2.3
# Scaled coordinates that agree so well are the same, and how many of them a search goes by.
_SAME_SCALED, _TREE_COORDINATES = 1e-3, 12
# Strained copies are compared with so many of their neighbors in volume, on either side.
_WINDOW = 25
# Frames whose atoms all lie within this distance [Å] nearly coincide.
_NEAR = 0.08
# Positions and cells [Å] that agree to so many decimals are the same.
_DECIMALS = 5
# Energies further than so many robust deviations from the composition's line are listed.
_OUTLIER = 12.0


@dataclass(frozen=True, repr=False)
class DataReport:
    """Result of `Dataset.check`.

    Attributes
    ----------
    facts : dict
        Everything found, as plain data (what ``--json`` prints).
    warnings : list of str
        What should be looked at; empty if nothing is suspicious.
    """

    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Facts and warnings as plain data."""
        return {**self.facts, "warnings": list(self.warnings)}

    def __repr__(self) -> str:
        """Say how much was looked at, and whether to look closer."""
        return (
            f"DataReport({self.facts['n_structures']} structures, {len(self.warnings)} warnings; "
            "print it for all)"
        )

    def _repr_html_(self) -> str:
        """Show it in a notebook, warnings first."""
        facts = [("warning", text) for text in self.warnings] or [("warnings", "none")]
        return card(
            f"{self.facts['n_structures']} structures, {self.facts['n_rows']} labels",
            facts,
            folded("all that was found", str(self)),
        )

    def __str__(self) -> str:
        """Readable in a terminal."""
        return data_report_text(self.facts, self.warnings)


def check_dataset(data: Dataset) -> DataReport:
    """Examine labels; see `DataReport`.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    DataReport
    """
    warnings: list[str] = []
    by_config_type: dict[str, list[Frame]] = {}
    for frame in data:
        by_config_type.setdefault(frame.config_type, []).append(frame)
    facts: dict[str, Any] = {
        "n_structures": len(data),
        "n_atoms": data.n_atoms,
        "n_rows": data.n_rows,
        "species": {
            chemical_symbols[z]: int(sum((f.atoms.numbers == z).sum() for f in data))
            for z in data.species
        },
        "sources": label_sources(data),
        "unread": unread_labels(data),
        "groups": {name: _ranges(frames) for name, frames in sorted(by_config_type.items())},
        "all": _ranges(list(data)),
        "shortest_distances": {
            f"{chemical_symbols[a]}-{chemical_symbols[b]}": round(d, 4)
            for (a, b), d in sorted(data.distances.shortest.items())
        },
    }
    for kind in ("energy", "forces", "virial"):
        missing = sum(getattr(f, kind) is None for f in data)
        facts[f"without_{kind}"] = missing
    warnings += lost_labels(facts["unread"], len(data))
    several = [s for s in facts["sources"].items() if len(s[1]) > 1]
    warnings += [
        f"{kind} was read from several places: "
        + ", ".join(f"{count} frames from {name}" for name, count in sources.items())
        for kind, sources in several
        if kind in ("energy", "forces")
    ]
    facts["constrained_frames"] = sum(f.n_constrained > 0 for f in data)
    if facts["constrained_frames"]:
        warnings.append(
            f"{facts['constrained_frames']} frames have constrained atoms; their forces were "
            "read as stored (make sure the code that wrote them did not zero them)"
        )
    _check_zero_and_net_forces(data, facts, warnings)
    _check_duplicates(data, facts, warnings)
    _check_isolated(data, facts, warnings)
    _check_composition(data, facts, warnings)
    _check_virials(data, facts, warnings)
    _check_gradients(data, facts, warnings)
    facts["label_test"] = compare_labels(data)
    if facts["label_test"] is not None:
        strained = facts["virial_test"] is not None
        warnings += label_warnings(facts["label_test"], virials_tested=strained)
    facts["untested"] = _untested(facts)
    return DataReport(facts, warnings)


def _untested(facts: Mapping[str, Any]) -> list[str]:
    """Labels whose sign and unit nothing in the data could tell."""
    untested = []
    n, found = facts["n_structures"], facts["label_test"]
    few = "too few labels for a small model"
    why = few if found is None else "a small model does not tell them"
    strained = facts["virial_test"] is not None
    if not strained and facts["without_virial"] < n and not is_tested(found, "virial"):
        untested.append(
            f"sign and unit of virials and stresses (no strained copies of a cell, {why})"
        )
    near = facts["gradient_test"]["n_pairs"]
    forces = facts["all"]["max_force_ev_per_ang"]
    if not near and forces and not is_tested(found, "forces"):
        untested.append(f"sign and unit of forces (no nearly equal frames, {why})")
    return untested


def _ranges(frames: Sequence[Frame]) -> dict[str, Any]:
    energies = [f.energy / len(f) for f in frames if f.energy is not None]
    forces = [np.linalg.norm(f.forces, axis=1) for f in frames if f.forces is not None]
    stress = [f.stress for f in frames if f.stress is not None]
    magnitude = np.concatenate(forces) if forces else np.empty(0)

    def extent(values: npt.ArrayLike) -> list[float] | None:
        array = np.asarray(values, dtype=float)
        return [float(array.min()), float(array.max())] if array.size else None

    pressure = [-np.mean(s[:3]) / GPa for s in stress]
    return {
        "n_structures": len(frames),
        "n_atoms": sum(map(len, frames)),
        "atoms_per_structure": [min(map(len, frames)), max(map(len, frames))],
        "energy_per_atom_ev": extent(energies),
        "max_force_ev_per_ang": float(magnitude.max()) if magnitude.size else None,
        "rms_force_ev_per_ang": float(np.sqrt((magnitude**2).mean())) if magnitude.size else None,
        "pressure_gpa": extent(pressure),
    }


def _names(frames: Sequence[Frame], most: int = 5) -> str:
    shown = ", ".join(f.name for f in frames[:most])
    return shown + (f" and {len(frames) - most} more" if len(frames) > most else "")


def _check_zero_and_net_forces(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    with_forces = [f for f in data if f.forces is not None and len(f) > 1]
    still = [f for f in with_forces if f.forces is not None and not f.forces.any()]
    facts["zero_force_frames"] = len(still)
    lost = [f for f in still if not forces_vanish_by_symmetry(f.atoms)]
    facts["zero_without_symmetry_frames"] = len(lost)
    if lost:
        warnings.append(
            f"all forces are exactly zero in {len(lost)} frames without a symmetry that makes them "
            f"so ({_names(lost)}): lost on the way?"
        )
    partial = [
        f
        for f in with_forces
        if f.forces is not None
        and np.abs(f.forces).max() > 0.05  # below, it is a symmetric crystal
        and (~f.forces.any(axis=1)).sum() > max(1, len(f) // 10)
    ]
    facts["partly_zero_force_frames"] = len(partial)
    if partial:
        warnings.append(
            f"forces of some atoms are exactly zero in {len(partial)} frames "
            f"({_names(partial)}): zeroed by constraints?"
        )
    net = [float(np.linalg.norm(f.forces.sum(axis=0))) for f in with_forces if f.forces is not None]
    facts["max_net_force_ev_per_ang"] = max(net, default=0.0)
    drifting = [
        f
        for f, total in zip(with_forces, net, strict=True)
        if f.forces is not None and total > 0.02 * len(f) and total > 0.1 * np.abs(f.forces).sum()
    ]
    if drifting:
        warnings.append(
            f"forces do not sum to zero in {len(drifting)} frames ({_names(drifting)}): no "
            "potential can reproduce a net force"
        )


def _check_duplicates(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    groups: dict[str, list[Frame]] = {}
    for frame in data:
        groups.setdefault(structure_digest(frame.atoms, decimals=_DECIMALS), []).append(frame)
    repeated = [g for g in groups.values() if len(g) > 1]
    facts["duplicates"] = [[f.name for f in g] for g in repeated]
    if repeated:
        warnings.append(
            f"{sum(len(g) - 1 for g in repeated)} frames repeat another one ({_names(repeated[0])})"
        )
    contradicting, of_states = [], []
    for group in repeated:
        limit = 1e-3 * len(group[0])
        by_state: dict[str, list[float]] = {}
        for f in group:
            if f.energy is not None:
                by_state.setdefault(_state(f), []).append(f.energy)
        within = max((_spread(energies) for energies in by_state.values()), default=0.0)
        between = _spread([energy for energies in by_state.values() for energy in energies])
        if within > limit:
            contradicting.append((within, group))
        elif between > limit:
            of_states.append((between, group))
    for pairs, what in (
        (contradicting, "identical structures with different energies"),
        (
            of_states,
            "identical structures of several charge or spin states with different energies",
        ),
    ):
        if pairs:
            largest, worst = max(pairs, key=lambda pair: pair[0])
            also = "" if len(pairs) == 1 else f"; {len(pairs)} structures in all"
            warnings.append(
                f"{what}: {_names(worst)} differ by {largest:.4f} eV{also}"
                + (
                    ""
                    if pairs is contradicting
                    else " (a potential knows nothing of them: fit one)"
                )
            )


def _state(frame: Frame) -> str:
    """Charge and spin of a frame, and the numbers of its atoms: charges and moments."""
    arrays = {k: v for k, v in frame.atoms.arrays.items() if k not in ("numbers", "positions")}
    return frame.state + (digest(arrays) if arrays else "")


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0


def _check_isolated(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    found = {
        chemical_symbols[f.atoms.numbers[0]]: f.energy
        for f in data
        if f.is_isolated_atom and f.energy is not None
    }
    facts["isolated_atoms"] = found
    facts["without_isolated_atom"] = [s for s in data.symbols if s not in found]
    several = [f for f in data if len(f) > 1 and is_isolated_name(f.config_type)]
    if several:
        warnings.append(
            f"{len(several)} frames are called isolated atoms but have several atoms "
            f"({_names(several)}): they count as ordinary structures"
        )
    energies: dict[str, list[float]] = {}
    for f in data:
        if f.is_isolated_atom and f.energy is not None:
            energies.setdefault(chemical_symbols[f.atoms.numbers[0]], []).append(f.energy)
    for symbol, values in energies.items():
        if max(values) - min(values) > 1e-3:
            warnings.append(
                f"isolated atoms of {symbol} have different energies ({min(values):.4f} to "
                f"{max(values):.4f} eV): the median is taken; give e0 to choose another"
            )


def _check_composition(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    labelled = [f for f in data if f.energy is not None and not f.is_isolated_atom]
    if not labelled:
        facts["composition"] = None
        return
    species = data.species
    counts = np.array([[np.sum(f.atoms.numbers == z) for z in species] for f in labelled])
    size = counts.sum(axis=1)
    share = counts / size[:, None]
    energies = np.array([f.energy for f in labelled], dtype=float) / size
    # least absolute deviations (reweighted least squares): a few wrong energies must not
    # move the line they are judged by
    weights = np.ones(len(labelled))
    for _ in range(30):
        root = np.sqrt(weights)
        e0 = np.linalg.lstsq(share * root[:, None], energies * root, rcond=1e-8)[0]
        residual = energies - share @ e0
        weights = 1.0 / np.maximum(np.abs(residual), 1e-3)
    center = np.median(residual)
    spread = 1.4826 * float(np.median(np.abs(residual - center)))
    facts["composition"] = {
        "e0": dict(zip(data.symbols, map(float, e0), strict=True)),
        "rms_residual_ev_per_atom": float(np.sqrt((residual**2).mean())),
    }
    far = np.abs(residual - center) > max(_OUTLIER * spread, 0.5)
    outliers = [f for f, out in zip(labelled, far, strict=True) if out]
    facts["composition"]["outliers"] = [f.name for f in outliers]
    # a small remote group (a gas phase, a dimer curve) is no error: look within groups
    suspicious = []
    for name in {f.config_type for f in outliers}:
        members = np.array([f.config_type == name for f in labelled])
        own = residual[members]
        limit = max(_OUTLIER * 1.4826 * float(np.median(np.abs(own - np.median(own)))), 0.5)
        suspicious += [
            f
            for f, r in zip(
                [f for f, m in zip(labelled, members, strict=True) if m], own, strict=True
            )
            if abs(r - np.median(own)) > limit
        ]
    if suspicious:
        warnings.append(
            f"energies far from what the composition suggests in {len(suspicious)} frames "
            f"({_names(suspicious)})"
        )


def _strained_pairs(data: Dataset) -> list[tuple[Frame, Frame, FloatArray]]:
    """Pairs of frames that differ by a small homogeneous strain (returned, 3x3)."""
    groups: dict[tuple[bytes, str], list[Frame]] = {}
    for frame in data:
        if frame.energy is None or frame.virial is None:
            continue
        numbers = np.ascontiguousarray(frame.atoms.numbers).tobytes()
        groups.setdefault((numbers, frame.state), []).append(frame)
    pairs = []
    for members in groups.values():
        for same in _strained_copies(members):
            pairs += _neighbors_in_strain(sorted(same, key=lambda f: float(f.atoms.get_volume())))
    return pairs


def _strained_copies(members: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one composition whose scaled positions agree, in groups.

    A tree over some of the coordinates finds who can be meant, so that thousands of frames of one
    composition cost no more than their number.
    """
    from scipy.spatial import cKDTree

    if len(members[0]) == 1:
        return [list(members)]
    scaled = np.array([f.atoms.get_scaled_positions(wrap=False) for f in members])
    relative = (scaled - scaled[:, :1])[:, 1:].reshape(len(members), -1)
    some = np.unique(np.linspace(0, relative.shape[1] - 1, _TREE_COORDINATES).astype(int))
    # on the circle, so that 0 and 1 are the same
    angles = 2.0 * np.pi * relative[:, some]
    tree = cKDTree(np.hstack([np.cos(angles), np.sin(angles)]))
    groups, used = [], np.zeros(len(members), dtype=bool)
    for k in range(len(members)):
        if used[k]:
            continue
        near = np.array(tree.query_ball_point(tree.data[k], 2.0 * np.pi * _SAME_SCALED, p=np.inf))
        near = near[~used[near]]
        d = relative[near] - relative[k]
        same = near[np.abs(d - np.round(d)).max(axis=1) < _SAME_SCALED]
        used[same] = True
        groups.append([members[m] for m in sorted(same)])
    return groups


def _strains(frame: Frame, others: Sequence[Frame]) -> FloatArray:
    """Logarithmic strains from the cell of a frame to those of others, (n, 3, 3)."""
    cells = np.array([other.atoms.cell.array for other in others])
    deformation = np.linalg.solve(frame.atoms.cell.array, cells)
    values, vectors = np.linalg.eigh(deformation @ deformation.swapaxes(1, 2))
    return (vectors * (0.5 * np.log(values))[:, None, :]) @ vectors.swapaxes(1, 2)


def _neighbors_in_strain(chain: Sequence[Frame]) -> list[tuple[Frame, Frame, FloatArray]]:
    """Each frame with the nearest other one in strain; ``chain`` ascends in volume."""
    found: dict[tuple[int, int], FloatArray] = {}
    for k, frame in enumerate(chain):
        window = [m for m in range(max(0, k - _WINDOW), min(len(chain), k + _WINDOW + 1)) if m != k]
        if not window:
            continue
        strains = _strains(frame, [chain[m] for m in window])
        size = np.abs(strains).max(axis=(1, 2))
        size[(size < 1e-4) | (size > _MAX_STRAIN)] = np.inf
        best = int(size.argmin())
        if np.isfinite(size[best]) and (window[best], k) not in found:
            found[k, window[best]] = strains[best]
    return [(chain[k], chain[m], e) for (k, m), e in found.items()]


def _check_virials(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    """Compare energies of strained copies of a cell with the work of their stresses."""
    facts["virial_test"] = virial_test(data)
    if facts["virial_test"] is not None:
        warning = _virial_warning(facts["virial_test"])
        if warning is not None:
            warnings.append(warning)


def virial_test(data: Dataset) -> dict[str, Any] | None:
    """How energies change with strain, in terms of what the virials say.

    Energies of strained copies of a cell are compared with the work of their virials, by the
    trapezoid rule less its error in a solid whose bulk modulus grows with pressure as usual.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    dict or None
        ``slope`` of energies against work (1 is right), ``offset_ev_per_atom`` and
        ``offset_gpa``: the isotropic virial (pressure) that the labels carry beyond -dE/d
        strain, the sign of ``virial_offset`` of a model; ``offset_error_ev_per_atom``, how far
        that is known; ``explained``, ``n_pairs``. None with less than three pairs.
    """
    pairs = _strained_pairs(data)
    if len(pairs) < 3:
        return None
    change, work, offset, third = [], [], [], []
    for one, two, strain in pairs:
        assert one.energy is not None
        assert two.energy is not None
        assert one.virial is not None
        assert two.virial is not None
        first, second = (voigt_6_to_full_3x3_stress(f.virial) for f in (one, two))
        change.append((two.energy - one.energy) / len(one))
        work.append(-0.5 * float(np.sum((first + second) * strain)) / len(one))
        offset.append(-float(np.trace(strain)))
        third.append(-np.trace(strain) * float(np.sum((second - first) * strain)) / 12 / len(one))
    # per atom, dE = slope * (-W : strain) - constant * tr(strain)
    works = np.array(work) + _HARDENING * np.array(third)
    target, isotropic = np.array(change), np.array(offset)
    slope, constant = _line(works, isotropic, target)
    hardest, softest = (
        _line(np.array(work) + c * np.array(third), isotropic, target)[1]
        for c in (_HARDENING - 1.0, _HARDENING + 1.0)
    )
    residual = target - slope * works - constant * isotropic
    explained = 1.0 - float(residual @ residual) / float(target @ target)
    volume = float(np.median([p[0].atoms.get_volume() / len(p[0]) for p in pairs]))
    return {
        "n_pairs": len(pairs),
        "slope": slope,
        "offset_ev_per_atom": -constant,  # of the labels beyond -dE/d strain
        "offset_error_ev_per_atom": 0.5 * abs(hardest - softest),
        "offset_gpa": -constant / volume / GPa,
        "explained": explained,
    }


def _line(work: FloatArray, isotropic: FloatArray, target: FloatArray) -> tuple[float, float]:
    """Least squares of a slope, and of a constant as far as it can be seen."""
    if np.abs(isotropic).max() < 1e-6:  # shears only
        return float(work @ target / (work @ work)), 0.0
    solution = np.linalg.lstsq(np.column_stack([work, isotropic]), target, rcond=None)[0]
    return float(solution[0]), float(solution[1])


def _virial_warning(test: Mapping[str, Any]) -> str | None:
    """What is wrong with the virials, if anything."""
    n_pairs, slope, explained = test["n_pairs"], test["slope"], test["explained"]
    offset = test["offset_ev_per_atom"]
    if explained < 0.8:
        return (
            f"virials do not explain the energies of {n_pairs} strained pairs (explained "
            f"{100 * explained:.0f} %): wrong order of components, or labels of other frames?"
        )
    if slope < 0:
        return (
            f"virials have the wrong sign (energy follows {slope:.2f} x -W:strain): kernelpot "
            "expects virial = -dE/d strain, stress = +dE/d strain / volume"
        )
    if not 0.8 < slope < 1.25:
        units = {1 / GPa: "GPa taken for eV/Å^3", 1 / (1000 * bar): "kbar taken for eV/Å^3"}
        guess = ""
        for factor, text in units.items():
            for s in (slope, 1.0 / slope):
                if 0.8 < s / factor < 1.25:
                    guess = f" ({text}?)"
        return (
            f"virials are in another unit or scale: energies change by {slope:.4g} times what "
            f"they say{guess}"
        )
    if abs(offset) > max(0.02, 2.0 * test["offset_error_ev_per_atom"]):
        return (
            f"virials and energies disagree by a constant {offset:+.3f} eV/atom "
            f"({test['offset_gpa']:+.2f} GPa; an unconverged basis does this). Fitting "
            "allows for it; predicted pressures will differ from the labels by that much"
        )
    return None


def _check_gradients(data: Dataset, facts: dict[str, Any], warnings: list[str]) -> None:
    """Compare energies of near-duplicates with the work of their forces."""
    groups: dict[str, list[Frame]] = {}
    for frame in data:
        if frame.energy is None or frame.forces is None or len(frame) < 2:
            continue
        cell = np.round(frame.atoms.cell.array, _DECIMALS)
        same_box = digest(frame.atoms.numbers, frame.atoms.pbc, cell, frame.state)
        groups.setdefault(same_box, []).append(frame)
    tested, wrong = 0, []
    for members in groups.values():
        # along the first coordinate near-duplicates are neighbors
        chain = sorted(members, key=lambda f: float(f.atoms.positions[0, 0]))
        for one, two in pairwise(chain):
            step = two.atoms.positions - one.atoms.positions
            largest = float(np.abs(step).max())
            if not 1e-4 < largest < _NEAR:
                continue
            assert one.energy is not None
            assert two.energy is not None
            assert one.forces is not None
            assert two.forces is not None
            tested += 1
            work = -0.5 * float(np.sum((one.forces + two.forces) * step))
            change = two.energy - one.energy
            size = float(
                np.linalg.norm(step) * (np.linalg.norm(one.forces) + np.linalg.norm(two.forces))
            )
            if abs(change - work) > 0.25 * size + 2e-3:
                wrong.append((one, two))
    facts["gradient_test"] = {"n_pairs": tested, "n_wrong": len(wrong)}
    if wrong:
        names = ", ".join(f"{a.name} and {b.name}" for a, b in wrong[:3])
        warnings.append(
            f"forces are not the gradient of the energy in {len(wrong)} of {tested} pairs of "
            f"nearly equal frames ({names})"
        )
