"""Labels against each other: a small model fitted to forces predicts energies and virials.

The slope of labels against predictions is one where signs and units agree, -1 where gradients
were stored as forces, and a known factor where units differ. Labels that contradict what all
others say are listed frame by frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import Bohr, GPa, Hartree, Rydberg, bar, kcal, mol

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.small_model import SmallModel, robust_fit, typical

# Reach of the small model [Å]; matrix elements and frames it is fitted to at most.
_R_CUT, _MAX_ELEMENTS, _MINIMUM_FRAMES = 5.0, 600_000, 5
# Slopes are told by correlations and a logarithm of the likelihood against the other sign above
# the first two, and are right between 1/3 and 3: the model is crude.
_TOLD, _EVIDENCE, _RIGHT = 0.75, 5.0, 3.0
# Share of labels that a small model does not explain, at least.
_CRUDE = 0.03
# Units of labels in those of ASE, by kind; a slope within a third of one of them names it.
_KCAL = kcal / mol
_UNITS = {
    "energy": {"Hartree": Hartree, "Rydberg": Rydberg, "kcal/mol": _KCAL, "kJ/mol": _KCAL / 4.184,
               "meV": 1e-3},
    "forces": {"Hartree/Bohr": Hartree / Bohr, "Hartree/Å": Hartree, "Rydberg/Bohr": Rydberg / Bohr,
               "kcal/mol/Å": _KCAL, "kJ/mol/Å": _KCAL / 4.184, "eV/nm": 0.1, "meV/Å": 1e-3},
    "virial": {"GPa": GPa, "kbar (kB)": 1000 * bar, "Hartree/Bohr^3": Hartree / Bohr**3},
}  # fmt: skip
_NEAR = 1.45
# Robust deviations, and shares of the label, that make a residual absurd; and least sizes [eV/Å,
# eV/atom, eV/atom].
_ABSURD, _SHARE = 25.0, 0.6
_LEAST = {"forces": 1.0, "energy": 0.2, "virial": 2.0}


@dataclass(frozen=True)
class _Sample:
    """Rows and labels of the frames that are tested; energies and virials per atom."""

    frames: Sequence[Frame]
    model: SmallModel
    forces: FloatArray
    forces_of: IntArray
    energy: FloatArray
    energy_of: IntArray
    virial: FloatArray
    virial_of: IntArray
    labels: Mapping[str, FloatArray]


def compare_labels(data: Dataset) -> dict[str, Any] | None:
    """Test labels of a data set against each other.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    dict or None
        ``n_frames``, ``n_functions``, ``forces_correlation``; ``energy`` and ``virial``: each a
        dict with ``slope`` of labels against predictions, ``correlation`` and ``evidence``
        (logarithm of the likelihood against the other sign), or None where there are none;
        ``outliers``: list of dicts with ``name``, ``kind``, ``label`` and ``predicted``
        [eV/Å, eV/atom]. None with too few forces.
    """
    sample = _sample(data)
    if sample is None:
        return None
    target = sample.labels["forces"]
    weights = robust_fit(sample.forces, target)
    found: dict[str, Any] = {
        "n_frames": len(sample.frames),
        "n_functions": sample.model.n_functions,
        "forces_correlation": _correlation(target, sample.forces @ weights),
    }
    residuals = {"forces": target - sample.forces @ weights}
    spread = 1.4826 * typical(residuals["forces"]) + 1e-9
    sound = np.abs(residuals["forces"]) < _ABSURD * spread
    of = {
        "virial": (sample.virial, sample.labels["virial"]),
        # energies are known up to one of each species
        "energy": _without_composition(sample, sample.energy, sample.labels["energy"]),
    }
    told: dict[str, tuple[FloatArray, FloatArray]] = {}
    # what one kind tells helps with the other: forces alone say little of densities
    for kind in ("virial", "energy", "virial"):
        if kind == "virial" and kind in told:
            continue
        known = [told[k] for k in told if k != kind]
        base = (
            np.vstack([sample.forces[sound], *(rows for rows, _ in known)]),
            np.concatenate([target[sound], *(labels for _, labels in known)]),
        )
        found[kind], residuals[kind] = _slope(base, weights, spread, *of[kind])
        slope = _told(found[kind])
        if slope is not None:
            kept = _no_extremes(residuals[kind])
            much = spread / (float(np.std(residuals[kind][kept])) + 1e-9)
            rows, labels = of[kind]
            told[kind] = (much * rows[kept], much / slope * labels[kept])
            matrix, labels = (np.concatenate(p) for p in zip(base, told[kind], strict=True))
            weights = robust_fit(matrix, labels)
    compared = {"forces": target, **{kind: labels for kind, (_, labels) in of.items()}}
    found["outliers"] = _outliers(sample, compared, residuals, found)
    return found


def _sample(data: Dataset) -> _Sample | None:
    frames = [f for f in data if len(f) > 1]
    with_forces = [f for f in frames if f.forces is not None and f.forces.any()]
    shortest = min(data.distances.shortest.values(), default=None)
    if len(with_forces) < _MINIMUM_FRAMES or shortest is None:
        return None
    model = SmallModel(data.species, _R_CUT, max(shortest, 0.5))
    frames = _some(frames, _MAX_ELEMENTS // (3 * model.n_functions))
    energy, forces, virial = [], [], []
    of: dict[str, list[int]] = {"energy": [], "forces": [], "virial": []}
    labels: dict[str, list[FloatArray]] = {"energy": [], "forces": [], "virial": []}
    for indices, rows in model.rows(frames):
        start = 0
        for place, index in enumerate(indices):
            frame, n = frames[index], len(frames[index])
            if frame.energy is not None:
                energy.append(rows.energy[place : place + 1] / n)
                labels["energy"].append(np.array([frame.energy / n]))
                of["energy"].append(index)
            if frame.forces is not None:
                forces.append(rows.forces[start : start + n].reshape(3 * n, -1))
                labels["forces"].append(frame.forces.ravel())
                of["forces"] += [index] * (3 * n)
            if frame.virial is not None:
                virial.append(rows.virial[place] / n)
                labels["virial"].append(frame.virial / n)
                of["virial"] += [index] * 6
            start += n
    informative = sum(int(np.sum(np.abs(values) > 1e-6)) for values in labels["forces"])
    if informative < 2 * model.n_functions:
        return None
    none = np.empty((0, model.n_functions))
    return _Sample(
        frames,
        model,
        np.concatenate(forces),
        np.array(of["forces"]),
        np.concatenate([none, *energy]),
        np.array(of["energy"], dtype=int),
        np.concatenate([none, *virial]),
        np.array(of["virial"], dtype=int),
        {kind: np.concatenate([np.empty(0), *values]) for kind, values in labels.items()},
    )


def _some(frames: Sequence[Frame], max_atoms: int) -> list[Frame]:
    """Frames of that many atoms: the extreme ones, and others evenly."""
    if sum(map(len, frames)) <= max_atoms:
        return list(frames)
    extremes: dict[int, None] = {}
    sizes = np.array(
        [
            [
                0.0 if f.forces is None else float(np.abs(f.forces).max()),
                0.0 if f.virial is None else float(np.abs(f.virial).max()) / len(f),
                0.0 if f.energy is None else f.energy / len(f),
                0.0 if f.energy is None else -f.energy / len(f),
            ]
            for f in frames
        ]
    )
    for column in -sizes.T:
        extremes |= dict.fromkeys(np.argsort(column, kind="stable")[:10].tolist())
    chosen: list[int] = []
    n_atoms = 0
    stride = max(1, sum(map(len, frames)) // max_atoms)
    evenly = [k for start in range(stride) for k in range(start, len(frames), stride)]
    for k in dict.fromkeys([*extremes, *evenly]):
        if n_atoms + len(frames[k]) > max_atoms and len(chosen) >= _MINIMUM_FRAMES:
            break
        chosen.append(k)
        n_atoms += len(frames[k])
    return [frames[k] for k in sorted(chosen)]


def _without_composition(
    sample: _Sample, rows: FloatArray, labels: FloatArray
) -> tuple[FloatArray, FloatArray]:
    if not len(labels):
        return rows, labels
    share = np.array(
        [
            [np.mean(sample.frames[k].atoms.numbers == z) for z in sample.model.species]
            for k in sample.energy_of
        ]
    )
    both = np.column_stack([rows, labels])
    root = np.ones(len(labels))
    for _ in range(30):  # least absolute deviations: an absurd energy must not shift all others
        solution = np.linalg.lstsq(share * root[:, None], both * root[:, None], rcond=1e-8)[0]
        left = both - share @ solution
        root = 1.0 / np.sqrt(np.maximum(np.abs(left[:, -1]), 1e-3))
    return left[:, :-1], left[:, -1]


def _correlation(one: FloatArray, two: FloatArray) -> float:
    """Correlation of rows that are no extremes of either."""
    kept = _no_extremes(one) & _no_extremes(two)
    if kept.sum() < 3:
        return 0.0
    x, y = one[kept] - one[kept].mean(), two[kept] - two[kept].mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else 0.0


def _no_extremes(values: FloatArray) -> np.ndarray:
    """Rows that are within thirty robust deviations."""
    away = values - np.median(values)
    return np.abs(away) <= 30.0 * typical(away) + 1e-12


def _slope(
    base: tuple[FloatArray, FloatArray],
    weights: FloatArray,
    spread: float,
    rows: FloatArray,
    labels: FloatArray,
) -> tuple[dict[str, float] | None, FloatArray]:
    """The most likely slope of labels against predictions of one model of `base` and of them.

    Whatever the slope, coefficients follow from linear least squares, and the noise of either
    kind of label from its residuals; slopes are tried on a logarithmic grid, of either sign.
    """
    n = len(labels)
    if n < _MINIMUM_FRAMES:
        return None, np.zeros(n)
    kept = _no_extremes(labels)
    size = float(np.std(rows[kept] @ weights))
    if not size or not np.std(labels[kept]):
        return None, np.zeros(n)
    start = np.log(float(np.std(labels[kept])) / size)
    trust = kept.astype(float)
    for _ in range(2):  # then less trust in what is far from all others
        likelihood = _Likelihood(*base, spread, rows * trust[:, None], labels * trust)
        best = {}
        for sign in (1.0, -1.0):
            center, width = start, np.log(30.0)
            for _ in range(3):
                grid = center + np.linspace(-width, width, 13)
                values = [likelihood(sign * float(np.exp(x)))[0] for x in grid]
                center, width = float(grid[int(np.argmin(values))]), width / 5.0
            best[sign] = (min(values), sign * float(np.exp(center)))
        sign = min(best, key=lambda s: best[s])
        slope = best[sign][1]
        found = likelihood(slope)[1]
        residual = labels / slope - rows @ found
        usual = 1.4826 * typical(residual) + 1e-12
        trust = kept / np.sqrt(1.0 + (residual / (2.0 * usual)) ** 2)
    return {
        "slope": slope,
        "correlation": sign * abs(_correlation(labels, rows @ found)),
        "evidence": best[-sign][0] - best[sign][0],
    }, residual


class _Likelihood:
    """How unlikely labels are if their slope against predictions is given."""

    def __init__(
        self,
        matrix: FloatArray,
        target: FloatArray,
        spread: float,
        rows: FloatArray,
        labels: FloatArray,
    ) -> None:
        self._x, self._f = matrix, target
        self._rows, self._labels = rows, labels
        self._scale = np.linalg.norm(self._x, axis=0)
        self._scale[self._scale == 0] = 1.0
        self._x, self._rows = self._x / self._scale, rows / self._scale
        self._gram = [m.T @ m for m in (self._x, self._rows)]
        self._moment = [self._x.T @ self._f, self._rows.T @ labels]
        self._squares = [float(self._f @ self._f), float(labels @ labels)]
        self._noise = [spread**2, float(np.var(labels))]

    def __call__(self, slope: float) -> tuple[float, FloatArray]:
        """Negative logarithm of the likelihood, and coefficients."""
        noise = list(self._noise)
        factors = (1.0, slope)
        numbers = (len(self._f), len(self._labels))
        # a crude model that explains labels better than this has more functions than labels
        floor = [_CRUDE**2 * square / n for square, n in zip(self._squares, numbers, strict=True)]
        found = np.zeros(len(self._scale))
        for _ in range(4):
            matrix = sum(f**2 / v * g for f, v, g in zip(factors, noise, self._gram, strict=True))
            right = sum(f / v * m for f, v, m in zip(factors, noise, self._moment, strict=True))
            ridge = 1e-4 * np.trace(matrix) / len(found)
            found = np.linalg.solve(matrix + ridge * np.eye(len(found)), right)
            for k, (f, g, m) in enumerate(zip(factors, self._gram, self._moment, strict=True)):
                square = self._squares[k] - 2.0 * f * (found @ m) + f**2 * (found @ g @ found)
                noise[k] = max(float(square) / numbers[k], floor[k], 1e-18)
        value = sum(0.5 * n * np.log(v) for n, v in zip(numbers, noise, strict=True))
        return float(value), found / self._scale


def _outliers(
    sample: _Sample,
    compared: Mapping[str, FloatArray],
    residuals: Mapping[str, FloatArray],
    found: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Labels that contradict all others, the worst of each frame and kind."""
    result = []
    rows_of = {
        "forces": sample.forces_of, "energy": sample.energy_of, "virial": sample.virial_of
    }  # fmt: skip
    groups = np.array([f.config_type for f in sample.frames])
    for kind, frames in rows_of.items():
        residual = residuals[kind]
        told = (
            found["forces_correlation"]
            if kind == "forces"
            else (found[kind] or {}).get("correlation", 0.0)
        )
        if abs(told) < _TOLD:
            continue
        slope = 1.0 if kind == "forces" else found[kind]["slope"]
        labels = compared[kind] / slope
        everywhere = 1.4826 * typical(residual - np.median(residual))
        worst: dict[int, int] = {}
        for name in np.unique(groups):
            own = np.flatnonzero(groups[frames] == name)
            if not own.size:
                continue
            center = float(np.median(residual[own])) if kind == "energy" else 0.0
            away = np.abs(residual[own] - center)
            spread = max(1.4826 * typical(away), everywhere)
            absurd = (away > _ABSURD * spread) & (away > _LEAST[kind])
            absurd &= away > _SHARE * np.abs(labels[own])
            if kind == "forces":  # those that are too small may be of a free atom
                absurd &= np.abs(labels[own]) > np.abs(labels[own] - residual[own])
            for k in own[absurd]:
                frame = int(frames[k])
                if frame not in worst or abs(residual[k]) > abs(residual[worst[frame]]):
                    worst[frame] = int(k)
        for frame, k in sorted(worst.items()):
            result.append(
                {
                    "name": sample.frames[frame].name,
                    "kind": kind,
                    "label": float(labels[k]),
                    "predicted": float(labels[k] - residual[k]),
                }
            )
    return result


# ---- in words --------------------------------------------------------------------------


def label_warnings(found: Mapping[str, Any], *, virials_tested: bool = False) -> list[str]:
    """Say what is wrong with labels, if anything.

    Parameters
    ----------
    found : mapping
        What `compare_labels` found.
    virials_tested : bool
        Whether energies of strained cells have told of the virials already.

    Returns
    -------
    list of str
    """
    energy, virial = (_told(found[kind]) for kind in ("energy", "virial"))
    if virials_tested and (energy is None or _is_right(energy)):
        virial = None
    lines = []
    if abs(found["forces_correlation"]) < 0.3:
        lines.append(
            "a small model does not explain the forces (correlation "
            f"{found['forces_correlation']:.2f}): labels or positions of other frames?"
        )
    elif energy is not None and not _is_right(energy):
        agrees = virial is not None and _is_right(virial / energy)
        if virial is not None and _is_right(virial):
            lines.append(_wrong("energy", energy, "forces and virials"))
        else:
            with_what = "energies and virials" if agrees else "energies"
            lines.append(_wrong("forces", 1.0 / energy, with_what))
            if not agrees and abs(energy) != 1.0:
                lines[-1] += "; or the energies are" + _unit("energy", energy)
        if virial is not None and not agrees and not _is_right(virial):
            lines.append(_wrong("virial", virial, "forces"))
    elif virial is not None and not _is_right(virial):
        lines.append(_wrong("virial", virial, "forces"))
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for outlier in found["outliers"]:
        by_kind.setdefault(outlier["kind"], []).append(outlier)
    units = {"forces": "eV/Å", "energy": "eV/atom beyond its composition", "virial": "eV/atom"}
    for kind, several in by_kind.items():
        worst = max(several, key=lambda o: abs(o["label"] - o["predicted"]))
        names = ", ".join(o["name"] for o in several[:5])
        more = f" and {len(several) - 5} more" if len(several) > 5 else ""
        lines.append(
            f"{kind} of {len(several)} frames contradict all other labels ({names}{more}): "
            f"{worst['name']} has {worst['label']:.4g} {units[kind]} where a small model expects "
            f"{worst['predicted']:.4g}"
        )
    return lines


def _told(found: Mapping[str, float] | None) -> float | None:
    """The slope, where it can be told."""
    if found is None or abs(found["correlation"]) < _TOLD or found["evidence"] < _EVIDENCE:
        return None
    return found["slope"]


def is_tested(found: Mapping[str, Any] | None, kind: str) -> bool:
    """Whether sign and unit of a kind of labels were told.

    Parameters
    ----------
    found : mapping or None
        What `compare_labels` found.
    kind : {"energy", "forces", "virial"}

    Returns
    -------
    bool
    """
    if found is None:
        return False
    kinds = ("energy", "virial") if kind == "forces" else (kind,)
    return any(_told(found[k]) is not None for k in kinds)


def _is_right(slope: float) -> bool:
    return 1.0 / _RIGHT < slope < _RIGHT


def _wrong(kind: str, slope: float, against: str) -> str:
    what = {"energy": "energies", "forces": "forces", "virial": "virials (stresses)"}[kind]
    said = (
        f"{what} contradict the {against}: predicted against labelled {what} have slope "
        f"{1.0 / slope:.3g} (1 is right)"
    )
    if slope < 0 and _is_right(-slope):
        why = {
            "forces": "gradients stored as forces? forces are -dE/dx",
            "virial": "the wrong sign? a virial is -dE/d strain, a stress +dE/d strain / volume",
            "energy": "the wrong sign?",
        }[kind]
        return f"{said}: {why}"
    return f"{said}:" + _unit(kind, slope)


def _unit(kind: str, slope: float) -> str:
    """Units that labels may be in."""
    names = []
    for name, unit in _UNITS[kind].items():
        for factor, words in ((1.0 / unit, f"in {name}"), (unit, f"in eV taken for {name}")):
            ratio = abs(slope) / factor
            if 1.0 / _NEAR < ratio < _NEAR:
                names.append((abs(np.log(ratio)), words))
    found = " or ".join(text for _, text in sorted(names)[:3])
    sign = " with the wrong sign" if slope < 0 else ""
    ours = {"energy": "eV", "forces": "eV/Å", "virial": "eV (stresses eV/Å^3)"}[kind]
    if found:
        return f" {found}{sign} in place of {ours}?"
    return f" in another unit{sign} than {ours}?"
