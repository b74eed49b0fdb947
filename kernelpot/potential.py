"""The whole model: fit to labelled structures, predict, save, load."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import GPa

from kernelpot import defaults, modelfile
from kernelpot.baseline import AtomicEnergies, Wall, atomic_energies
from kernelpot.checks import label_sources
from kernelpot.covariance import KernelTerm, Layout
from kernelpot.dataset import Dataset, Frame, LabelKeys, check_structure, read_dataset
from kernelpot.descriptors import SOAP, SOAPTerm, species_index, symbols_to_numbers
from kernelpot.evaluation import LocalModel, scatter
from kernelpot.fitting import (
    Design,
    Progress,
    accumulate,
    canonical_order,
    choose_sparse_points,
    peak_bytes,
)
from kernelpot.kernels import DotProductKernel
from kernelpot.metrics import evaluate
from kernelpot.neighbors import NeighborList, neighbor_list
from kernelpot.observations import SIGMA_ISOLATED, Noise, bulk_volume
from kernelpot.parallel import thread_count
from kernelpot.prediction import Prediction
from kernelpot.regression import LocalVariance, TriangularFactor
from kernelpot.report import summary_text

if TYPE_CHECKING:
    from kernelpot.calculator import KernelPotCalculator

FloatArray = npt.NDArray[np.float64]

# Golden structure: agreement demanded when a file is loaded.
_ENERGY_TOLERANCE = 1e-8
_FORCE_TOLERANCE = 1e-6


class KernelPotential:
    """A sparse Gaussian-process interatomic potential.

    Local energies are a sum of SOAP kernels (GAP [1]_); what is added to them is the
    energy of isolated atoms and a short-range repulsive wall. Everything left out is
    chosen from the training data and explained by `summary`.

    Parameters
    ----------
    terms : sequence of SOAPTerm, optional
        SOAP kernels to sum; by default two, a short-ranged and a long-ranged one.
    preset : {"fast", "default", "accurate"}
        Sparse points per term that names no number: 300, 1,000 or 3,000, or all distinct
        environments if there are fewer.
    n_sparse : int, optional
        Sparse points per default term, instead of the preset's; more than there are
        distinct environments is an error.
    sigma_energy : float, optional
        Noise of an energy per atom [eV]; a total energy of N atoms has
        ``sigma_energy * sqrt(N)``.
    sigma_forces : float, optional
        Noise of a force component [eV/Å].
    sigma_stress : float, optional
        Noise of a stress component [eV/Å^3].
    config_type_sigma : mapping, optional
        Noise of some groups, ``{"Surface": {"energy": ..., "forces": ..., "stress":
        ...}}``, same units. Values in ``atoms.info`` (``sigma_energy``,
        ``sigma_forces``, ``sigma_virial``) are absolute and override these.
    e0 : mapping of symbol to float, "isolated" or "least_squares", optional
        Energies of isolated atoms [eV]; by default from isolated atoms in the data,
        else by least squares.
    baseline : sequence of Wall, optional
        Default ``[Wall()]``; an empty sequence for none.
    sparse_points : sequence, optional
        Per term a list of ``(atoms, center)`` to use as sparse points, or None.
    seed : int, default=0
        For random choices among the data.

    Attributes
    ----------
    species_ : tuple of int
        Atomic numbers, ascending.
    terms_ : list of SOAPTerm
        The terms used.
    e0_ : AtomicEnergies
    baseline_ : list of Wall
    noise_ : Noise
    factor_ : TriangularFactor
        Posterior precision of the whitened weights.
    model_ : LocalModel
        The fitted local energy function.
    virial_offset_ : float
        Isotropic virial per atom that the labels carry beyond the derivative of their
        energies [eV/atom]; kept out of predictions.
    training_ : dict
        Counts, timing, choices made and errors on the training data.

    References
    ----------
    .. [1] Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015).
    """

    def __init__(
        self,
        terms: Sequence[SOAPTerm] | None = None,
        *,
        preset: str = "default",
        n_sparse: int | None = None,
        sigma_energy: float | None = None,
        sigma_forces: float | None = None,
        sigma_stress: float | None = None,
        config_type_sigma: Mapping[str, Mapping[str, float]] | None = None,
        e0: Mapping[str, float] | str | None = None,
        baseline: Sequence[Wall] | None = None,
        sparse_points: Sequence[Sequence[tuple[Atoms, int]] | None] | None = None,
        seed: int = 0,
    ) -> None:
        self.terms = terms
        self.preset = preset
        self.n_sparse = n_sparse
        self.sigma_energy = sigma_energy
        self.sigma_forces = sigma_forces
        self.sigma_stress = sigma_stress
        self.config_type_sigma = config_type_sigma
        self.e0 = e0
        self.baseline = baseline
        self.sparse_points = sparse_points
        self.seed = seed

    # ---- fitting -------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        keys: LabelKeys | None = None,
        memory: float | str | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> KernelPotential:
        """Fit to labelled structures.

        Parameters
        ----------
        data : path, glob pattern, Dataset, ase.Atoms or sequence of these
            Whatever `read_dataset` takes.
        keys : LabelKeys, optional
            Names of the labels.
        memory : float or str, optional
            Budget in bytes, or such as ``"2GB"``; refused before any work where the
            factor of the chosen number of sparse points does not fit.
        n_threads : int, optional
            Default: ``KERNELPOT_NUM_THREADS`` or the free cores. The result does not
            depend on it.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        self : KernelPotential

        Raises
        ------
        ValueError
            If data or parameters are unusable; the message names the remedy.
        """
        started = time.perf_counter()
        threads = thread_count(n_threads)
        dataset = Dataset(canonical_order(read_dataset(data, keys=keys)))
        notes: list[str] = []
        given = self._given_e0()
        self.e0_ = atomic_energies(dataset, given)
        self.species_ = dataset.species
        frames = canonical_order(_with_isolated_atoms(dataset, self.e0_))
        self.terms_, term_notes = self._choose_terms(dataset)
        notes += term_notes
        self.noise_, noise_notes = self._choose_noise(dataset)
        notes += noise_notes
        walls = [Wall()] if self.baseline is None else list(self.baseline)
        self.baseline_ = [wall.fit(dataset, self.species_) for wall in walls]
        _check_memory(memory, self.terms_, defaults.N_SPARSE[self.preset], threads)
        references = [self._reference(frame.atoms) for frame in frames]

        terms = []
        for index, term in enumerate(self.terms_):
            chosen = None if self.sparse_points is None else self.sparse_points[index]
            kernel_term, found = choose_sparse_points(
                term,
                self.species_,
                frames,
                given=chosen,
                default_n_sparse=defaults.N_SPARSE[self.preset],
                seed=self.seed,
                progress=progress,
            )
            terms.append(kernel_term)
            notes += [f"term {index}: {note}" for note in found]
        design = Design.of(terms, self.species_)
        self.factor_ = TriangularFactor(design.n_columns)
        accumulate(
            design,
            self.factor_,
            frames,
            references,
            self.noise_,
            n_threads=threads,
            progress=progress,
        )
        solution = self._set_posterior(design)
        self.virial_offset_ = design.virial_offset(solution)
        notes += _virial_note(self.virial_offset_, dataset)
        self.training_ = {
            "n_structures": len(dataset),
            "n_atoms": dataset.n_atoms,
            "n_rows": self.factor_.n_rows,
            "config_types": dataset.config_types,
            "sources": label_sources(dataset),
            "notes": notes,
        }
        self._golden = self._make_golden(frames)
        if progress is not None:
            progress("training errors", 0, 1)
        self.training_["errors"] = evaluate(self, dataset, n_threads=threads)
        self.training_["wall_seconds"] = time.perf_counter() - started
        return self

    def _given_e0(self) -> Mapping[int, float] | str | None:
        if self.e0 is None or isinstance(self.e0, str):
            if self.e0 not in (None, "isolated", "least_squares"):
                raise ValueError(
                    f"`e0` must be a mapping, 'isolated' or 'least_squares', got {self.e0!r}"
                )
            return self.e0
        numbers = symbols_to_numbers(list(self.e0))
        return dict(zip(numbers, map(float, self.e0.values()), strict=True))

    def _choose_terms(self, data: Dataset) -> tuple[list[SOAPTerm], list[str]]:
        if self.preset not in defaults.N_SPARSE:
            raise ValueError(
                f"`preset` must be one of {', '.join(defaults.N_SPARSE)}, got {self.preset!r}"
            )
        if self.terms is not None:
            if not self.terms:
                raise ValueError("`terms` must hold at least one SOAPTerm, got none")
            if self.sparse_points is not None and len(self.sparse_points) != len(self.terms):
                raise ValueError(
                    "`sparse_points` must have one entry per term, got "
                    f"{len(self.sparse_points)} for {len(self.terms)}"
                )
            return list(self.terms), []
        if self.sparse_points is not None:
            raise ValueError("`sparse_points` needs explicit `terms`")
        return defaults.terms(data, self.e0_, n_sparse=self.n_sparse)

    def _choose_noise(self, data: Dataset) -> tuple[Noise, list[str]]:
        sigmas, notes = defaults.sigmas(data)
        for name in ("sigma_energy", "sigma_forces", "sigma_stress"):
            value = getattr(self, name)
            if value is not None:
                sigmas[name] = float(value)
                notes = [note for note in notes if not note.startswith(name)]
        noise = Noise(
            **sigmas,
            config_types=dict(self.config_type_sigma or {}),
            bulk_volume=bulk_volume(list(data)),
        )
        return noise, notes

    def _set_posterior(self, design: Design) -> FloatArray:
        factor = self.factor_
        solution = factor.solve()
        present = sorted({z for z, _ in design.whitening})
        variances = {}
        for z in present:
            prior = sum(t.kernel.diagonal() for t in design.terms if z in t.sparse)
            columns = design.whitened.species(z)
            variances[z] = LocalVariance(prior, factor.posterior_factor(columns))
        self.model_ = LocalModel(
            list(design.terms), design.weights(solution), design.whitening, variances
        )
        return solution

    # ---- prediction ----------------------------------------------------------------

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this KernelPotential is not fitted yet: call fit()")

    @property
    def r_cut(self) -> float:
        """Distance beyond which atoms do not interact [Å]."""
        self._check_fitted()
        return max(
            [t.soap.term.r_cut for t in self.model_.terms] + [w.r_cut for w in self.baseline_]
        )

    def predict(
        self,
        atoms: Atoms,
        *,
        return_std: bool = False,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> Prediction:
        """Predict energy, forces and stress.

        Parameters
        ----------
        atoms : ase.Atoms
            Any periodicity; not modified.
        return_std : bool, default=False
            Also compute `energies_std` and `spilling`.
        neighbors : NeighborList, optional
            A list valid for `atoms` to at least `r_cut`; searched for if not given.
        n_threads : int, optional
            As in `fit`.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            If the structure has a species the model does not know, or is not sound.
        """
        self._check_fitted()
        z_index = species_index(atoms.numbers, self.species_)
        if neighbors is None:
            check_structure(atoms, "structure")
            neighbors = neighbor_list(atoms, self.r_cut)
        displacements = neighbors.displacements(atoms.positions)
        evaluated = self.model_.evaluate(
            z_index,
            neighbors,
            displacements,
            variance=return_std,
            n_threads=thread_count(n_threads),
        )
        gradient = evaluated.pair_gradient
        assert gradient is not None
        energies = evaluated.energies + [self.e0_.e0[int(z)] for z in atoms.numbers]
        distances = np.sqrt(np.einsum("pc,pc->p", displacements, displacements))
        for wall in self.baseline_:
            added, slope, close = wall.evaluate(atoms.numbers, neighbors, displacements, distances)
            energies += added
            gradient[close] += slope
        forces, virial = scatter(neighbors, displacements, gradient, len(atoms))
        stress = None
        if np.all(atoms.pbc):
            full = -0.5 * (virial + virial.T) / atoms.get_volume()
            stress = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        std = spilling = None
        if evaluated.variance is not None and evaluated.novelty is not None:
            std = np.sqrt(evaluated.variance)
            prior = np.array([self.model_.variances[int(z)].prior for z in z_index])
            spilling = evaluated.novelty / prior
        return Prediction(float(energies.sum()), energies, forces, stress, std, spilling)

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Posterior standard deviation of each local energy, without forces.

        Parameters
        ----------
        atoms : ase.Atoms
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV]; the `energies_std` of `predict`.
        """
        self._check_fitted()
        pairs = neighbor_list(atoms, self.r_cut)
        evaluated = self.model_.evaluate(
            species_index(atoms.numbers, self.species_),
            pairs,
            pairs.displacements(atoms.positions),
            gradient=False,
            variance=True,
            n_threads=thread_count(n_threads),
        )
        assert evaluated.variance is not None
        return np.sqrt(evaluated.variance)

    def variance_gradient(self, atoms: Atoms, weights: FloatArray) -> FloatArray:
        """Gradient of a weighted sum of local variances by the positions.

        Parameters
        ----------
        atoms : ase.Atoms
        weights : ndarray of shape (n_atoms,)
            Weight of each atom's variance.

        Returns
        -------
        ndarray of shape (n_atoms, 3)
            [eV^2/Å].
        """
        self._check_fitted()
        pairs = neighbor_list(atoms, self.r_cut)
        displacements = pairs.displacements(atoms.positions)

        def blend(
            atoms_slice: slice, energies: FloatArray, variances: FloatArray
        ) -> tuple[FloatArray, FloatArray, FloatArray]:
            return variances, np.zeros_like(energies), weights[atoms_slice]

        evaluated = self.model_.evaluate(
            species_index(atoms.numbers, self.species_), pairs, displacements, blend=blend
        )
        assert evaluated.pair_gradient is not None
        forces, _ = scatter(pairs, displacements, evaluated.pair_gradient, len(atoms))
        return -forces

    def _reference(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """Energy, forces and virial (Voigt) that the kernels need not explain."""
        energy = self.e0_.total(atoms.numbers)
        forces, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        reach = max((wall.r_cut for wall in self.baseline_), default=0.0)
        if reach > 0:
            pairs = neighbor_list(atoms, reach)
            displacements = pairs.displacements(atoms.positions)
            distances = np.linalg.norm(displacements, axis=1)
            gradient = np.zeros((pairs.n_pairs, 3))
            for wall in self.baseline_:
                added, slope, close = wall.evaluate(atoms.numbers, pairs, displacements, distances)
                energy += float(added.sum())
                gradient[close] += slope
            forces, virial = scatter(pairs, displacements, gradient, len(atoms))
        virial = 0.5 * (virial + virial.T)
        return energy, forces, virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    def calculator(self, **options: Any) -> KernelPotCalculator:
        """ASE calculator of this potential.

        Parameters
        ----------
        **options
            See `KernelPotCalculator`.

        Returns
        -------
        KernelPotCalculator
        """
        from kernelpot.calculator import KernelPotCalculator

        return KernelPotCalculator(self, **options)

    # ---- reports -------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything that was chosen and found, as plain data.

        Returns
        -------
        dict
            Species, terms, sparse counts and ranks, sigmas, e0, baseline, training
            counts and errors.
        """
        self._check_fitted()
        terms = []
        for t, term in enumerate(self.model_.terms):
            soap = term.soap.term
            terms.append(
                {
                    **term_to_dict(soap),
                    "n_features": term.soap.n_features,
                    "n_sparse": {
                        chemical_symbols[self.species_[z]]: len(q)
                        for z, q in sorted(term.sparse.items())
                    },
                    "rank": {
                        chemical_symbols[self.species_[z]]: self.model_.whitening[z, t].shape[1]
                        for z in sorted(term.sparse)
                    },
                }
            )
        return {
            "species": [chemical_symbols[z] for z in self.species_],
            "r_cut": self.r_cut,
            "terms": terms,
            "sigma_energy": self.noise_.sigma_energy,
            "sigma_forces": self.noise_.sigma_forces,
            "sigma_stress": self.noise_.sigma_stress,
            "config_type_sigma": {k: dict(v) for k, v in self.noise_.config_types.items()},
            "e0": {chemical_symbols[z]: e for z, e in self.e0_.e0.items()},
            "e0_origin": self.e0_.origin,
            "e0_note": self.e0_.note,
            "baseline": [wall.to_dict() for wall in self.baseline_],
            "virial_offset": self.virial_offset_,
            "training": self.training_,
        }

    def summary(self) -> str:
        """Explain in words what was chosen, from what, and how well it fits."""
        return summary_text(self.describe(), self.baseline_)

    # ---- file ----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one ``.kpot`` file (no pickle), replacing it atomically.

        Parameters
        ----------
        path : path
        """
        self._check_fitted()
        arrays: dict[str, npt.NDArray[Any]] = {}
        for (z, t), weights in self.model_.weights.items():
            arrays[f"weights_{z}_{t}"] = weights
            arrays[f"whitening_{z}_{t}"] = self.model_.whitening[z, t]
            arrays[f"sparse_{z}_{t}"] = self.model_.terms[t].sparse[z]
        for t, term in enumerate(self.model_.terms):
            arrays[f"alphas_{t}"], arrays[f"betas_{t}"] = term.soap.basis_constants
        for z, variance in self.model_.variances.items():
            arrays[f"posterior_{z}"] = _pack(variance.posterior_factor)
        arrays["factor"] = _pack(self.factor_.matrix)
        golden_header, golden_arrays = self._golden
        arrays.update(golden_arrays)
        modelfile.write(
            path,
            {
                "units": {"energy": "eV", "length": "Angstrom"},
                "species": [int(z) for z in self.species_],
                "terms": [term_to_dict(t) for t in self.terms_],
                "blocks": sorted([int(z), int(t)] for z, t in self.model_.weights),
                "n_rows": self.factor_.n_rows,
                "noise": {
                    "sigma_energy": self.noise_.sigma_energy,
                    "sigma_forces": self.noise_.sigma_forces,
                    "sigma_stress": self.noise_.sigma_stress,
                    "config_types": {k: dict(v) for k, v in self.noise_.config_types.items()},
                    "bulk_volume": _finite_or_none(self.noise_.bulk_volume),
                },
                "e0": {str(z): e for z, e in self.e0_.e0.items()},
                "e0_origin": self.e0_.origin,
                "e0_note": self.e0_.note,
                "baseline": [wall.to_dict() for wall in self.baseline_],
                "virial_offset": self.virial_offset_,
                "training": _json_safe(self.training_),
                "golden": golden_header,
                "versions": _versions(),
            },
            arrays,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> KernelPotential:
        """Read a model file.

        Parameters
        ----------
        path : path
        verify : bool, default=True
            Recompute the stored golden structure and compare.

        Returns
        -------
        KernelPotential

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ModelFileError
            If the file is foreign, truncated, altered, too new, or the golden
            structure is not reproduced on this machine.
        """
        header, arrays = modelfile.read(path)
        self = cls([SOAPTerm(**t) for t in header["terms"]])
        self.terms_ = list(self.terms or [])
        self.species_ = tuple(header["species"])
        noise = dict(header["noise"])
        noise["bulk_volume"] = np.inf if noise["bulk_volume"] is None else noise["bulk_volume"]
        self.noise_ = Noise(**noise)
        self.e0_ = AtomicEnergies(
            {int(z): float(e) for z, e in header["e0"].items()},
            header["e0_origin"],
            header["e0_note"],
        )
        self.baseline_ = [Wall.from_dict(entry) for entry in header["baseline"]]
        self.virial_offset_ = float(header["virial_offset"])
        self.training_ = header["training"]
        blocks = [(int(z), int(t)) for z, t in header["blocks"]]
        terms = [
            KernelTerm(
                SOAP(
                    term,
                    self.species_,
                    basis=(arrays[f"alphas_{t}"], arrays[f"betas_{t}"]),
                ),
                DotProductKernel(term.zeta, term.delta),
                {z: arrays[f"sparse_{z}_{t}"] for z, s in blocks if s == t},
            )
            for t, term in enumerate(self.terms_)
        ]
        whitening = {(z, t): arrays[f"whitening_{z}_{t}"] for z, t in blocks}
        layout = Layout.of({key: T.shape[1] for key, T in whitening.items()})
        self.factor_ = TriangularFactor(layout.size + 1)
        self.factor_.matrix = np.asfortranarray(_unpack(arrays["factor"]))
        self.factor_.n_rows = int(header["n_rows"])
        variances = {
            z: LocalVariance(
                sum(t.kernel.diagonal() for t in terms if z in t.sparse),
                _unpack(arrays[f"posterior_{z}"]),
            )
            for z in sorted({z for z, _ in blocks})
        }
        weights = {(z, t): arrays[f"weights_{z}_{t}"] for z, t in blocks}
        self.model_ = LocalModel(terms, weights, whitening, variances)
        self._golden = (
            header["golden"],
            {k: v for k, v in arrays.items() if k.startswith("golden_")},
        )
        if verify:
            self._verify_golden(os.fspath(path))
        return self

    def _make_golden(self, frames: Sequence[Frame]) -> tuple[dict[str, Any], dict[str, Any]]:
        several = [f for f in frames if len(f) > 1] or list(frames)
        atoms = min(several, key=len).atoms
        predicted = self.predict(atoms, return_std=True, n_threads=1)
        header = {"energy": predicted.energy, "pbc": [bool(p) for p in atoms.pbc]}
        arrays = {
            "golden_numbers": atoms.numbers.astype(np.int64),
            "golden_positions": atoms.positions.copy(),
            "golden_cell": np.array(atoms.cell),
            "golden_forces": predicted.forces,
            "golden_std": predicted.energies_std,
        }
        if predicted.stress is not None:
            arrays["golden_stress"] = predicted.stress
        return header, arrays

    def _verify_golden(self, name: str) -> None:
        header, arrays = self._golden
        atoms = Atoms(
            arrays["golden_numbers"],
            arrays["golden_positions"],
            cell=arrays["golden_cell"],
            pbc=header["pbc"],
        )
        found = self.predict(atoms, return_std=True, n_threads=1)
        wrong = []
        energy = abs(found.energy - header["energy"])
        if energy > _ENERGY_TOLERANCE * max(1.0, abs(header["energy"])):
            wrong.append(f"energy by {energy:.2g} eV")
        pairs = [("forces", found.forces), ("std", found.energies_std)]
        if "golden_stress" in arrays:
            pairs.append(("stress", found.stress))
        for kind, value in pairs:
            difference = float(np.abs(value - arrays[f"golden_{kind}"]).max())
            if difference > _FORCE_TOLERANCE * max(1.0, np.abs(arrays[f"golden_{kind}"]).max()):
                wrong.append(f"{kind} by {difference:.2g}")
        if wrong:
            raise modelfile.ModelFileError(
                f"{name}: the stored structure is not reproduced on this machine "
                f"({', '.join(wrong)}); library versions differ? verify=False loads anyway"
            )


def load(path: str | os.PathLike[str], *, verify: bool = True) -> KernelPotential:
    """Read a model file; see `KernelPotential.load`."""
    return KernelPotential.load(path, verify=verify)


def term_to_dict(term: SOAPTerm) -> dict[str, Any]:
    """Plain data that `SOAPTerm` can be rebuilt from."""
    result = {}
    for name in term.__dataclass_fields__:
        value = getattr(term, name)
        if isinstance(value, Mapping):
            value = {str(k): float(v) for k, v in value.items()}
        elif isinstance(value, np.generic):
            value = value.item()
        result[name] = value
    return result


def parse_memory(memory: float | str) -> float:
    """Bytes meant by a number or by text such as ``"2GB"`` or ``"500 MB"``.

    Raises
    ------
    ValueError
        If the text is not a size.
    """
    if isinstance(memory, str):
        text = memory.strip().upper().removesuffix("B").removesuffix("I")
        units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
        scale = units.get(text[-1:], 1.0)
        try:
            value = float(text.rstrip("KMGT").strip()) * scale
        except ValueError:
            value = -1.0
    else:
        value = float(memory)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"`memory` must be a size such as '2GB' or bytes, got {memory!r}")
    return value


def _check_memory(
    memory: float | str | None, terms: Sequence[SOAPTerm], default: int, threads: int
) -> None:
    if memory is None:
        return
    budget = parse_memory(memory)
    counts = [t.n_sparse or default for t in terms]
    needed = peak_bytes(sum(counts), threads)
    if needed > budget:
        affordable = next(
            (m for m in range(sum(counts), 0, -10) if peak_bytes(m, threads) <= budget), 0
        )
        remedy = (
            f"the budget holds {affordable // len(counts)} points per term"
            if affordable
            else "the budget is below what any fit needs"
        )
        raise ValueError(
            f"{sum(counts)} sparse points need {needed / 1e9:.2f} GB, the memory budget is "
            f"{budget / 1e9:.2f} GB; {remedy}: lower n_sparse or raise the budget"
        )


def _with_isolated_atoms(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    """Frames to fit; each species with a known e0 gets one isolated atom of that energy."""
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


def _virial_note(offset: float, data: Dataset) -> list[str]:
    """Say so where virials contradict energies by a constant (above 20 meV/atom)."""
    labelled = [f for f in data if f.virial is not None]
    if abs(offset) < 0.02 or not labelled:
        return []
    volume = float(np.median([f.atoms.get_volume() / len(f) for f in labelled]))
    return [
        f"virial labels contradict the energies by a constant {offset:+.3f} eV/atom (about "
        f"{offset / volume / GPa:+.2f} GPa of pressure; an unconverged basis does this). The "
        "energies were followed: predicted stresses differ from the labels by that much"
    ]


def _pack(matrix: FloatArray) -> FloatArray:
    """Upper triangle, row by row."""
    return matrix[np.triu_indices(len(matrix))]


def _unpack(packed: FloatArray) -> FloatArray:
    n = int((np.sqrt(8 * len(packed) + 1) - 1) / 2)
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = packed
    return matrix


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _json_safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _versions() -> dict[str, str]:
    import ase
    import numba

    from kernelpot._version import __version__

    return {
        "kernelpot": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "ase": ase.__version__,
    }
