"""Errors of a potential against labelled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.units import GPa

from kernelpot.common.cards import card, grid
from kernelpot.common.tables import number
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Frame, LabelKeys
from kernelpot.data.reading import read_dataset
from kernelpot.model.calibration import informative
from kernelpot.model.prediction import Prediction, ReturnStd


class Predictor(Protocol):
    """Anything with the `predict_many` of a `KernelPotential`."""

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = ...,
        gate: Any = ...,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict energy, forces and stress of structures."""


class Errors(dict[str, Any]):
    """What `evaluate` found: a dict, with a table of it."""

    def _repr_html_(self) -> str:
        """Show in a notebook the errors of all structures and of each config type."""
        columns = {
            "n_structures": ("structures", 0),
            "energy_mae_mev_per_atom": ("energy MAE [meV/atom]", 2),
            "energy_rmse_mev_per_atom": ("RMSE", 2),
            "forces_mae_ev_per_ang": ("force MAE [eV/Å]", 4),
            "forces_rmse_ev_per_ang": ("RMSE", 4),
            "stress_mae_gpa": ("stress MAE [GPa]", 3),
        }
        rows = [
            [name, *(number(found[key], digits) for key, (_, digits) in columns.items())]
            for name, found in {"all": self, **self["by_config_type"]}.items()
        ]
        return card("Errors", (), grid(["", *(name for name, _ in columns.values())], rows))

    def to_frame(self) -> Any:
        """Errors of all structures and of each config type as a table.

        Returns
        -------
        pandas.DataFrame
            One row for each config type and one for ``"all"``, one column for each number;
            those on uncertainty are named such as ``forces_coverage_95``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_frame makes a table of pandas, which is not installed: pip install pandas"
            ) from error
        rows = {"all": self, **self["by_config_type"]}
        return pd.DataFrame([_row(values) for values in rows.values()], index=list(rows))


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one row of a table, those on uncertainty side by side."""
    found = {k: v for k, v in values.items() if k not in ("by_config_type", "uncertainty")}
    for kind, judged in values.get("uncertainty", {}).items():
        found |= {f"{kind}_{name}": value for name, value in judged.items()}
    return found


def evaluate(
    potential: Predictor,
    data: Any,
    *,
    keys: LabelKeys | None = None,
    gate: Any = False,
    uncertainty: bool = False,
    n_threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    each: Callable[[Frame, Prediction], None] | None = None,
    local_std: bool = False,
) -> Errors:
    """Errors overall and per config type.

    Parameters
    ----------
    potential : KernelPotential
    data : path, Dataset, ...
        Whatever `read_dataset` takes.
    keys : LabelKeys, optional
    gate : bool or VarianceGate, default=False
        As in `KernelPotential.predict`.
    uncertainty : bool
        Also judge calibrated standard deviations, at the cost of ``return_std=True``:
        keys ``energy``, ``forces``, ``stress`` under ``uncertainty``, each with the result
        of `judge`. A standard deviation of a stress is that of the derivative of the
        energy: it is compared with labels less the constant virial per atom by which the
        training labels differ from that (``virial_offset`` in `describe`, here
        ``virial_offset_ev_per_atom``), while ``stress_mae_gpa`` is that of the labels as they
        are. And ``n_outside``: structures with atoms outside the data (`Prediction.outside`).
    n_threads : int, optional
    progress : callable, optional
    each : callable, optional
        Called as ``each(frame, prediction)`` for every structure.
    local_std : bool, default=False
        Give the predictions that `each` is shown local standard deviations.

    Returns
    -------
    Errors (dict)
        ``energy_mae_mev_per_atom``, ``energy_rmse_mev_per_atom``,
        ``forces_mae_ev_per_ang``, ``forces_rmse_ev_per_ang`` (per component),
        ``stress_mae_gpa``, ``n_structures``, ``n_atoms``, and ``by_config_type`` with
        the same keys per group; None without labels. Its ``to_frame()`` is a table.

    Raises
    ------
    ValueError
        If the data are unusable, or a structure has a species the model does not know.
    """
    dataset = read_dataset(data, keys=keys)
    errors = []
    structures = [frame.atoms for frame in dataset]
    names = [frame.name for frame in dataset]
    options: dict[str, Any] = {"gate": gate} if gate else {}
    predictions = potential.predict_many(
        structures,
        return_std=True if uncertainty else "local" if local_std else False,
        n_threads=n_threads,
        names=names,
        **options,
    )
    doubts: list[_Doubt] = []
    n_outside = 0
    model = getattr(potential, "model", potential)
    offset = float(getattr(model, "virial_offset", 0.0))  # per atom [eV]
    for done, (frame, predicted) in enumerate(zip(dataset, predictions, strict=True)):
        energy = forces = stress = None
        if frame.energy is not None:
            energy = np.array([(predicted.energy - frame.energy) / len(frame)])
        if frame.forces is not None:
            forces = (predicted.forces - frame.forces).ravel()
        if frame.virial is not None and predicted.stress is not None:
            stress = predicted.stress + frame.virial / frame.atoms.get_volume()
        if uncertainty:
            n_outside += predicted.outside is not None and bool(predicted.outside.any())
            derived = None
            if stress is not None:
                derived = stress - offset * len(frame) / frame.atoms.get_volume() * _ISOTROPIC
            doubts.append(_doubt(frame.config_type, predicted, energy, forces, derived, len(frame)))
        errors.append((frame.config_type, len(frame), energy, forces, stress))
        if each is not None:
            each(frame, predicted)
        if progress is not None:
            progress("evaluate", done + 1, len(dataset))
    result = Errors(_statistics(errors))
    result["by_config_type"] = {
        name: _statistics([e for e in errors if e[0] == name])
        for name in sorted({e[0] for e in errors})
    }
    if uncertainty:
        result["uncertainty"] = _judge_all(doubts, doubts)
        result["n_outside"] = n_outside
        result["virial_offset_ev_per_atom"] = offset
        for name, group in result["by_config_type"].items():
            group["uncertainty"] = _judge_all([d for d in doubts if d[0] == name], doubts)
    return result


def _statistics(errors: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    def gather(index: int) -> FloatArray:
        found = [e[index] for e in errors if e[index] is not None]
        return np.concatenate(found) if found else np.empty(0)

    def mae(values: FloatArray, scale: float = 1.0) -> float | None:
        return float(np.abs(values).mean() * scale) if values.size else None

    def rmse(values: FloatArray, scale: float = 1.0) -> float | None:
        return float(np.sqrt((values**2).mean()) * scale) if values.size else None

    energy, forces, stress = gather(2), gather(3), gather(4)
    return {
        "energy_mae_mev_per_atom": mae(energy, 1e3),
        "energy_rmse_mev_per_atom": rmse(energy, 1e3),
        "forces_mae_ev_per_ang": mae(forces),
        "forces_rmse_ev_per_ang": rmse(forces),
        "stress_mae_gpa": mae(stress, 1 / GPa),
        "n_structures": len(errors),
        "n_atoms": int(sum(e[1] for e in errors)),
    }


# Config type, and per quantity errors and half-widths at 68 %, 95 % and one std.
_Doubt = tuple[str, dict[str, tuple[FloatArray, FloatArray]]]
LEVEL_68 = 0.6827
# What `judge` finds.
_JUDGED = (
    "coverage_68",
    "coverage_95",
    "coverage_std",
    "coverage_two_std",
    "spearman",
    "sharpness",
    "nll",
    "nll_constant",
    "nll_bound",
)
# Half of Euler's constant and of log 2: the mean of -log|x| of standard normal x.
_LOG_NORMAL = 0.5 * (np.euler_gamma + np.log(2.0))
# A pressure in Voigt components.
_ISOTROPIC = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


def coverage(error: FloatArray, half_width: FloatArray) -> float:
    """Share of errors within their interval.

    Parameters
    ----------
    error, half_width : ndarray of the same shape

    Returns
    -------
    float
    """
    return float(np.mean(np.abs(error) <= half_width))


def sharpness(std: FloatArray) -> float:
    """Root mean square of standard deviations: among calibrated ones, less is better.

    Parameters
    ----------
    std : ndarray

    Returns
    -------
    float
    """
    return float(np.sqrt(np.mean(np.square(std))))


def negative_log_likelihood(error: FloatArray, std: FloatArray) -> float:
    """Mean negative log density of errors under centered Gaussians.

    Parameters
    ----------
    error, std : ndarray of the same shape

    Returns
    -------
    float
        Natural logarithm, in the unit of the errors.
    """
    return float((0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2.0 * np.pi)).mean())


def nll_bound(error: FloatArray) -> float:
    r"""Least `negative_log_likelihood` that any standard deviation can have.

    Of errors that are Gaussian given the structure, with a standard deviation :math:`\sigma`
    that differs from label to label, even knowing :math:`\sigma` leaves
    :math:`E \log \sigma + \frac12 + \frac12 \log 2 \pi`; and the errors alone tell
    :math:`E \log \sigma = E \log |e| + \frac12 (\gamma + \log 2)`, with Euler's constant. Where
    errors given the structure have heavier tails (are Gaussians of widths that nobody knows),
    less can be reached. So the difference to the best constant is what can be gained by telling
    small errors from large ones, and where that is little errors of all labels are alike.

    Parameters
    ----------
    error : ndarray
        At least one of them not zero; zeros (labels of few digits) count as the smallest.

    Returns
    -------
    float
        Natural logarithm, in the unit of the errors. Its statistical error is 1.1 over the root
        of the number of errors that know nothing of each other. It is no bound where errors given
        the structure have lighter tails than a Gaussian.
    """
    size = np.abs(error[error != 0.0])
    logs = np.log(np.append(size, np.full(error.size - size.size, size.min())))
    return float(logs.mean() + _LOG_NORMAL + 0.5 * (1.0 + np.log(2.0 * np.pi)))


def reliability(
    error: FloatArray, std: FloatArray, levels: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Coverage of Gaussian intervals against what they promise.

    Parameters
    ----------
    error, std : ndarray of the same shape
    levels : ndarray of shape (n,), optional
        Promised coverages; by default from 5 % to 95 %.

    Returns
    -------
    levels, covered : ndarray of shape (n,)
    """
    promised = np.linspace(0.05, 0.95, 19) if levels is None else np.asarray(levels, float)
    from scipy.special import ndtri

    widths = ndtri(0.5 * (1.0 + promised))
    covered = np.array([coverage(error, w * std) for w in widths])
    return promised, covered


def judge(
    widths: FloatArray, error: FloatArray, *, typical_std: float | None = None
) -> dict[str, float | None]:
    """Judge intervals by errors.

    Parameters
    ----------
    widths : ndarray of shape (n, n_components, 3)
        Half-widths at 68 % and 95 %, and the calibrated standard deviation.
    error : ndarray of shape (n, n_components)
        Components of a vector go together in the rank correlation.
    typical_std : float, optional
        Root mean square of standard deviations, if not that of these: some labels of a
        group may be zero by symmetry, or all.

    Returns
    -------
    dict
        ``coverage_68``, ``coverage_95``, ``coverage_std`` and ``coverage_two_std`` (within one
        and 1.96 standard deviations), ``spearman`` (of the norms of error and standard
        deviation; None for fewer than three), ``sharpness``, ``nll``, ``nll_constant`` (the
        best constant standard deviation), ``nll_bound`` (the best that any could be, see
        `nll_bound`; None if all errors are zero), ``n``. Labels without uncertainty (zero by
        symmetry) are left out.
    """
    std = widths[..., 2]
    used = informative(std, typical_std)
    if not used.any():
        return {**dict.fromkeys(_JUDGED), "n": 0.0}
    e, s = error[used], std[used]
    from scipy.special import ndtri
    from scipy.stats import spearmanr  # which takes half a second to import

    constant = np.full(e.shape, max(float(np.sqrt(np.mean(e**2))), 1e-300))
    norms = [np.sqrt((v**2).sum(axis=1)) for v in (error, std)]
    rank = spearmanr(*norms).statistic if len(error) > 2 else None
    return {
        "coverage_68": coverage(e, widths[..., 0][used]),
        "coverage_95": coverage(e, widths[..., 1][used]),
        "coverage_std": coverage(e, s),
        "coverage_two_std": coverage(e, ndtri(0.975) * s),
        "spearman": None if rank is None or not np.isfinite(rank) else float(rank),
        "sharpness": sharpness(s),
        "nll": negative_log_likelihood(e, s),
        "nll_constant": negative_log_likelihood(e, constant),
        "nll_bound": nll_bound(e) if e.any() else None,
        "n": float(used.sum()),
    }


def _doubt(
    config_type: str,
    predicted: Prediction,
    energy: FloatArray | None,
    forces: FloatArray | None,
    stress: FloatArray | None,
    n_atoms: int,
) -> _Doubt:
    """Errors and half-widths of one frame; energies per atom."""
    found = [predicted.interval(level) for level in (LEVEL_68, 0.95, None)]
    result = {}
    for kind, error, scale in (
        ("energy", energy, 1.0 / n_atoms),
        ("forces", forces, 1.0),
        ("stress", stress, 1.0),
    ):
        widths = [getattr(interval, kind) for interval in found]
        if error is not None and all(w is not None for w in widths):
            columns = {"energy": 1, "forces": 3, "stress": 1}[kind]
            shaped = [np.reshape(w, (-1, columns)) * scale for w in widths]
            result[kind] = (error.reshape(-1, columns), np.stack(shaped, axis=-1))
    return config_type, result


def _judge_all(
    doubts: Sequence[_Doubt], everything: Sequence[_Doubt]
) -> dict[str, dict[str, float | None]]:
    """Judge each kind of some frames; `everything` says what is zero."""
    result = {}
    for kind in ("energy", "forces", "stress"):
        found = [d[kind] for _, d in doubts if kind in d]
        if found:
            error, widths = (np.concatenate(parts) for parts in zip(*found, strict=True))
            std = np.concatenate([d[kind][1][..., 2].ravel() for _, d in everything if kind in d])
            typical = float(np.sqrt(np.mean(std**2)))
            result[kind] = judge(widths, error, typical_std=typical)
    return result
