"""A fitted model as a header and arrays, and back, with a golden structure as witness."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from ase import Atoms

from kernelpot._version import __version__
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.kinds import baseline_of
from kernelpot.baseline.reference import Reference, terms_of
from kernelpot.common import archive
from kernelpot.common.types import Array, FloatArray
from kernelpot.data.state import state_of
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.gp.local import LocalModel
from kernelpot.model.calibration import Calibration
from kernelpot.model.fitted import FittedModel
from kernelpot.model.record import TrainingRecord
from kernelpot.model.self_test import SelfTest
from kernelpot.regression.factors import AbsentFactor, TriangularFactor
from kernelpot.regression.local_variance import LocalVariance
from kernelpot.safety.thresholds import RELATIVE_WIDTH, SafetyNet
from kernelpot.terms.kinds import term_from_dict, term_to_dict

# Golden structure: agreement demanded when a file is loaded.
_ENERGY_TOLERANCE = 1e-8
_FORCE_TOLERANCE = 1e-6


def save(
    model: FittedModel,
    path: str | os.PathLike[str],
    golden: Atoms,
    parameters: Mapping[str, Any],
    *,
    slim: bool = False,
) -> None:
    """Write a model file.

    Parameters
    ----------
    model : FittedModel
    path : path
    golden : ase.Atoms
        A small structure whose prediction is stored and recomputed at load.
    parameters : mapping
        Arguments of the constructor, so that a loaded potential fits as this one did.
    slim : bool
        Leave out the factors of the training, which prediction does not need.
    """
    model = model.slim() if slim else model
    local = model.local
    design_header, arrays = model.design.to_arrays()
    arrays["weights"] = local.weights
    for index, tail in local.tails.items():
        if len(tail) == tail.shape[1] and np.array_equal(tail, tail.T):
            arrays[f"tail_{index}"] = archive.pack_triangle(tail)
        else:
            arrays[f"tailrows_{index}"] = tail
    for z, variance in local.variances.items():
        arrays[f"variance_order_{z}"] = variance.order
        arrays[f"variance_{z}"] = archive.pack_triangle(variance.reduction.T)
    for z, variance in (local.gauge_fixed or {}).items():
        arrays[f"gauge_fixed_{z}"] = archive.pack_triangle(variance.reduction.T)
    if not model.is_slim:
        arrays["factor"] = archive.pack_triangle(model.factor.matrix)
        arrays["known"] = archive.pack_triangle(model.known.matrix)
    if model.deviations is not None:
        arrays["deviations"] = model.deviations
    golden_header, golden_arrays = _golden(model, golden)
    arrays.update(golden_arrays)
    header = {
        "units": {"energy": "eV", "length": "Angstrom"},
        "slim": model.is_slim,
        **design_header,
        "n_rows": model.factor.n_rows,
        "noise": _pack_noise(model.noise),
        "form_noise": None if model.form_noise is None else _pack_noise(model.form_noise),
        "e0": {str(z): e for z, e in model.e0.e0.items()},
        "e0_origin": model.e0.origin,
        "e0_note": model.e0.note,
        "baseline": [term.to_dict() for term in model.baseline],
        "safety": model.safety.to_dict(),
        "virial_offset": model.virial_offset,
        "training": model.training.to_dict(),
        "self_test": None if model.self_test is None else model.self_test.to_dict(),
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        "golden": golden_header,
        "parameters": _pack_parameters(parameters),
        "versions": _versions(),
    }
    archive.write(path, header, arrays)


def load(
    path: str | os.PathLike[str], *, verify: bool = True
) -> tuple[FittedModel, Atoms, dict[str, Any]]:
    """Read a model file.

    Parameters
    ----------
    path : path
    verify : bool
        Recompute the golden structure and compare.

    Returns
    -------
    model : FittedModel
    golden : ase.Atoms
    parameters : dict
        Arguments of the constructor.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is foreign, truncated, altered, too new, or the golden structure is
        not reproduced.
    """
    header, arrays = archive.read(path)
    try:
        return _restore(header, arrays, os.fspath(path), verify)
    except (KeyError, TypeError) as error:
        raise archive.ModelFileError(
            f"{os.fspath(path)} was written by an incompatible version of kernelpot ({error!r})"
        ) from error


def _restore(
    header: Mapping[str, Any], arrays: Mapping[str, Array], name: str, verify: bool
) -> tuple[FittedModel, Atoms, dict[str, Any]]:
    if header["format_version"] == 2:
        header, arrays = _from_version_2(header, arrays)
    if header["format_version"] < 4:
        header = {**header, "safety": _safety_from_version_3(header["safety"])}
    design = Design.from_arrays(header, arrays)

    def triangle(name: str) -> TriangularFactor:
        if header.get("slim"):
            return AbsentFactor(int(header["n_rows"]))
        matrix = archive.unpack_triangle(arrays[name])
        factor = TriangularFactor(len(matrix) - 1)
        factor.matrix = np.asfortranarray(matrix)
        factor.n_rows = int(header["n_rows"])
        return factor

    def variances(kind: str) -> dict[int, LocalVariance]:
        return {
            z: LocalVariance(
                arrays[f"variance_order_{z}"], archive.unpack_triangle(arrays[f"{kind}_{z}"]).T
            )
            for z in design.present
        }

    local = LocalModel(
        design,
        arrays["weights"],
        variances("variance"),
        variances("gauge_fixed") if any(k.startswith("gauge_fixed_") for k in arrays) else None,
        tails=_tails(arrays),
    )
    tested = header.get("self_test")
    # files written before whole forms had a noise of their own say nothing of it
    of_forms = header.get("form_noise")
    e0 = AtomicEnergies(
        {int(z): float(e) for z, e in header["e0"].items()}, header["e0_origin"], header["e0_note"]
    )
    model = FittedModel(
        species=design.species,
        reference=Reference(e0, baseline_of(header["baseline"])),
        local=local,
        factor=triangle("factor"),
        known=triangle("known" if "known" in arrays else "factor"),
        self_test=None if tested is None else SelfTest.from_dict(tested),
        noise=_unpack_noise(header["noise"]),
        form_noise=None if of_forms is None else _unpack_noise(of_forms),
        safety=SafetyNet.from_dict(header["safety"]),
        virial_offset=float(header["virial_offset"]),
        training=TrainingRecord.from_dict(header["training"]),
        calibration=_calibration(header["calibration"]),
        deviations=arrays.get("deviations"),
    )
    golden = Atoms(
        arrays["golden_numbers"],
        arrays["golden_positions"],
        cell=arrays["golden_cell"],
        pbc=header["golden"]["pbc"],
        info=dict(header["golden"].get("info", {})),
    )
    for array in model.reference.array_names:
        if f"golden_array_{array}" in arrays:
            golden.set_array(array, arrays[f"golden_array_{array}"])
    if verify:
        _verify(model, golden, header["golden"], arrays, name)
    return model, golden, _unpack_parameters(header["parameters"])


def _pack_noise(noise: Noise) -> dict[str, Any]:
    return {
        "sigma_energy": noise.sigma_energy,
        "sigma_forces": noise.sigma_forces,
        "sigma_stress": noise.sigma_stress,
        "config_types": {k: dict(v) for k, v in noise.config_types.items()},
        "bulk_volume": noise.bulk_volume,
    }


def _unpack_noise(header: Mapping[str, Any]) -> Noise:
    volume = header["bulk_volume"]
    return Noise(**{**header, "bulk_volume": np.inf if volume is None else volume})


def _calibration(header: Mapping[str, Any] | None) -> Calibration | None:
    """Error models; none in files of before there were any (fit anew for them)."""
    if header is None or "factors" in header:
        return None
    return Calibration.from_dict(header)


def _tails(arrays: Mapping[str, Array]) -> dict[int, FloatArray]:
    """What means have beside their points, by block: symmetric matrices, or rows."""
    found = {}
    for name, array in arrays.items():
        if name.startswith("tail_"):
            upper = np.triu(archive.unpack_triangle(array))
            found[int(name.removeprefix("tail_"))] = upper + np.triu(upper, 1).T
        elif name.startswith("tailrows_"):
            found[int(name.removeprefix("tailrows_"))] = array
    return found


def _from_version_2(
    header: Mapping[str, Any], arrays: Mapping[str, Array]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays of a file of version 2 as they are written today.

    Blocks were named by species and term, and a term was of one kind.
    """
    names = sorted((int(z), int(t)) for z, t in header["blocks"])
    of_blocks = {f"{kind}_{z}_{t}" for kind in ("sparse", "whitening", "weights") for z, t in names}
    found = {name: array for name, array in arrays.items() if name not in of_blocks}
    for index, (z, t) in enumerate(names):
        found[f"points_{index}"] = arrays[f"sparse_{z}_{t}"]
        found[f"whitening_{index}"] = arrays[f"whitening_{z}_{t}"]
    found["weights"] = np.concatenate([arrays[f"weights_{z}_{t}"] for z, t in names])
    for t in range(len(header["terms"])):
        for name in ("alphas", "betas"):
            found[f"constant_{t}_{name}"] = found.pop(f"{name}_{t}")
    return {
        **header,
        "constants": [["alphas", "betas"]] * len(header["terms"]),
        "blocks": [[t, [header["species"][z]]] for z, t in names],
    }, found


# Far below every local energy [eV].
NO_FLOOR = -1e6


def _safety_from_version_3(safety: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of version 3 says of the limits of its data, as it is written today.

    The std at which a gate began to close was at least twice that of the data.
    """
    known = [None if low is None else 0.5 * low for low in safety["std_low"]]
    return {
        "std_known": known,
        "width": [None if s is None else RELATIVE_WIDTH * s for s in known],
        # not known: no floor
        "average": [NO_FLOOR] * len(known),
        "contact": safety["fallback"],
        "d_min": safety["d_min"],
        "std_of_data": [0.0 if low is None else 0.5 * low for low in safety["std_low"]],
        "prior_std": [0.0] * len(known),  # not known
        "amplitude": 1.0,
        "note": "from a file of an earlier version, which knew less: fit anew for sharper limits",
    }


def _pack_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    packed = dict(parameters)
    if packed["terms"] is not None:
        packed["terms"] = [term_to_dict(term) for term in packed["terms"]]
    charges = packed.get("charges")
    if charges is not None:
        packed["charges"] = term_to_dict(charges)
    baseline = packed["baseline"]
    if baseline is not None:
        packed["baseline"] = [term.to_dict() for term in terms_of(baseline)]
    return packed


def _unpack_parameters(packed: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(packed)
    if parameters["terms"] is not None:
        parameters["terms"] = [term_from_dict(entry) for entry in parameters["terms"]]
    if parameters.get("charges") is not None:
        parameters["charges"] = term_from_dict(parameters["charges"])
    if parameters["baseline"] is not None:
        parameters["baseline"] = baseline_of(parameters["baseline"])
    return parameters


def _golden(model: FittedModel, atoms: Atoms) -> tuple[dict[str, Any], dict[str, Array]]:
    predicted = model.predict(atoms, n_threads=1)
    arrays: dict[str, Array] = {
        "golden_numbers": atoms.numbers.astype(np.int64),
        "golden_positions": atoms.positions.copy(),
        "golden_cell": np.array(atoms.cell),
        "golden_forces": predicted.forces,
        "golden_std": model.posterior_local_std(atoms, n_threads=1),
    }
    if predicted.stress is not None:
        arrays["golden_stress"] = predicted.stress
    for name in model.reference.array_names:
        if name in atoms.arrays:
            arrays[f"golden_array_{name}"] = np.array(atoms.arrays[name], dtype=float)
    header = {"energy": predicted.energy, "pbc": [bool(p) for p in atoms.pbc]}
    # what terms and baselines read beside arrays
    header["info"] = state_of(atoms)
    return archive.plain(header), arrays


def _verify(
    model: FittedModel,
    atoms: Atoms,
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
    name: str,
) -> None:
    found = model.predict(atoms, n_threads=1)
    wrong = []
    energy = abs(found.energy - header["energy"])
    if not energy <= _ENERGY_TOLERANCE * max(1.0, abs(header["energy"])):
        wrong.append(f"energy by {energy:.2g} eV")
    pairs: list[tuple[str, FloatArray | None]] = [
        ("forces", found.forces),
        ("std", model.posterior_local_std(atoms, n_threads=1)),
    ]
    if "golden_stress" in arrays:
        pairs.append(("stress", found.stress))
    for kind, value in pairs:
        assert value is not None
        stored = arrays[f"golden_{kind}"]
        difference = float(np.abs(value - stored).max())
        if not difference <= _FORCE_TOLERANCE * max(1.0, float(np.abs(stored).max())):
            wrong.append(f"{kind} by {difference:.2g}")
    if wrong:
        raise archive.ModelFileError(
            f"{name}: the stored structure is not reproduced on this machine "
            f"({', '.join(wrong)}); library versions differ? verify=False loads anyway"
        )


def smallest(structures: Sequence[Atoms]) -> Atoms:
    """The smallest structure of more than one atom (or of one, if there are no others)."""
    several = [atoms for atoms in structures if len(atoms) > 1]
    return min(several or structures, key=len)


def _versions() -> dict[str, str]:
    import ase
    import numba

    return {
        "kernelpot": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "ase": ase.__version__,
    }
