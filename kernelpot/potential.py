"""The whole model: fit to labelled structures, predict, save, load."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from kernelpot.baseline.reference import BaselineTerm
from kernelpot.common.caller import warn_user
from kernelpot.common.cards import card
from kernelpot.common.estimator import Estimator
from kernelpot.common.parallel import single_blas_thread, thread_count
from kernelpot.common.types import FloatArray, Progress
from kernelpot.data.dataset import LabelKeys
from kernelpot.data.neighbors import NeighborList
from kernelpot.data.order import canonical_order
from kernelpot.data.reading import read_dataset
from kernelpot.model import file
from kernelpot.model.fitted import FittedModel
from kernelpot.model.prediction import Prediction, ReturnStd
from kernelpot.model.self_test import SelfTest
from kernelpot.model.summary import summary_card, summary_text
from kernelpot.safety.gate import VarianceGate, as_gate
from kernelpot.terms.base import Term

if TYPE_CHECKING:
    from distributed import Client

    from kernelpot.fit.settings import Settings
    from kernelpot.md.calculator import KernelPotCalculator
    from kernelpot.model.committee import Committee
    from kernelpot.model.suspects import Suspects
    from kernelpot.plot.plots import Plots
    from kernelpot.terms.charges import KernelCharges


class KernelPotential(Estimator):
    """A sparse Gaussian-process interatomic potential.

    Local energies are a sum of kernels (GAP [1]_); what is added to them is the energy of
    isolated atoms and a short-range repulsive wall. Everything left out is
    chosen from the training data and explained by `summary`.

    Parameters
    ----------
    terms : sequence of terms, optional
        Kernels to sum, such as ``[SOAPTerm(...), PairTerm(...)]``; by default two of SOAP of
        different range, three with several species; where nothing is periodic one whole
        quadratic form (``PolynomialSOAP(full=True)``). Of compounds with at most 10,000 labels
        (and ``optimize="loo"``, and no preset ``fast``) both are fitted, and structures left
        out decide.
    preset : {"fast", "default", "accurate"}
        Sparse points per term that names no number: 300, 1,000 or 3,000, or all distinct
        environments if there are fewer. Of whole forms 600, 2,000 or 3,000 columns, and by
        default 100, 200 or 300 directions.
    n_sparse : int, optional
        Sparse points per term that names no number, instead of the preset's; more than
        there are distinct environments is an error.
    sigma_energy : float, optional
        Noise of an energy per atom [eV]; a total energy of N atoms has
        ``sigma_energy * sqrt(N)``.
    sigma_forces : float, optional
        Noise of a force component [eV/Å].
    sigma_stress : float, optional
        Noise of a stress component [eV/Å^3].
    config_type_sigma : mapping, optional
        Noise of some groups, ``{"Surface": {"energy": ..., "forces": ..., "stress":
        ...}}``, same units; "search" (or None) instead of a number lets `fit` choose it,
        apart from that of the other groups. Values in ``atoms.info`` (``sigma_energy``,
        ``sigma_forces``, ``sigma_virial``) are absolute and override these.
    e0 : mapping of symbol (or atomic number) to float, "isolated" or "least_squares", optional
        Energies of isolated atoms [eV]; by default from isolated atoms in the data (single
        atoms far from their images, or of config type ``IsolatedAtom``), else by least
        squares ("average" is the same).
    baseline : term or sequence of terms, optional
        What is added to the kernels besides free atoms, such as ``[Wall(),
        PairBaseline(...)]``; an empty sequence for nothing. By default a wall and a
        fitted Morse function per pair of species, or the wall alone (``[Wall()]``)
        where a small model predicts structures left out worse with them.
    sparse_points : sequence, optional
        Per term a list of ``(atoms, center)`` to use as sparse points, or None.
    seed : int, default=0
        For random choices among the data.
    charges : KernelCharges, optional
        Electrostatics of charges that depend on their environments, learned from energies and
        forces; used where they lower errors on structures left out, which `summary` says.

    Attributes
    ----------
    fitted_ : FittedModel
        What the fit found: species, terms with sparse points and weights, e0, baseline,
        noise, the factor an update continues from, the virial offset of the labels, and
        the record of the training.

    References
    ----------
    .. [1] Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015).
    """

    def __init__(
        self,
        terms: Sequence[Term] | None = None,
        *,
        preset: str = "default",
        n_sparse: int | None = None,
        sigma_energy: float | None = None,
        sigma_forces: float | None = None,
        sigma_stress: float | None = None,
        config_type_sigma: Mapping[str, Mapping[str, float | str | None]] | None = None,
        e0: Mapping[str, float] | Mapping[int, float] | str | None = None,
        baseline: BaselineTerm | Sequence[BaselineTerm] | None = None,
        sparse_points: Sequence[Sequence[tuple[Atoms, int]] | None] | None = None,
        seed: int = 0,
        charges: KernelCharges | None = None,
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
        self.charges = charges

    # ---- fitting -------------------------------------------------------------------

    @single_blas_thread()
    def fit(
        self,
        data: Any,
        *,
        keys: LabelKeys | None = None,
        optimize: str | None = "loo",
        calibrate: bool = True,
        memory: float | str | None = None,
        n_threads: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_interval: float = 60.0,
        client: Client | None = None,
        self_test: bool = True,
        progress: Progress | None = None,
    ) -> KernelPotential:
        """Fit to labelled structures.

        Parameters
        ----------
        data : path, glob pattern, Dataset, ase.Atoms or sequence of these
            Whatever `read_dataset` takes.
        keys : LabelKeys, optional
            Names of the labels.
        optimize : {"loo", "evidence"} or None, default="loo"
            How noise (and, of default terms, delta) is chosen where not given: by the
            error of leaving one structure out, or by the evidence (the marginal
            likelihood); `summary` shows the values before and after. Neither may raise the
            error of structures left out of any kind of label by more than 2 % over all
            structures, or 5 % in a config type with enough of them. The fixed values of
            `kernelpot.fit.defaults` stay where the gain is small, where there are fewer
            than ten structures, and with None. (Whole quadratic forms, the default of
            molecules, choose their share of the noise by structures left out in any case,
            unless `calibrate` is False too; `GDMLTerm` has a noise of its own.)
        calibrate : bool, default=True
            Make standard deviations those of errors against the reference method, by
            structures left out (`kernelpot.model.calibration`); at least ten are needed.
            Without, they are those of the posterior, and the summary says so.
        memory : float or str, optional
            Budget of the whole process in bytes, or such as ``"2GB"``. A tight one costs
            threads, then smaller batches (rounding), then environments to choose sparse
            points from (said in the summary); it is refused before any long work where
            the factor of the chosen number of sparse points does not fit. What a fit
            needs does not grow with the number of structures; it is logged beforehand
            (logger ``kernelpot``) and is part of `summary`.
        n_threads : int, optional
            Default: ``KERNELPOT_NUM_THREADS`` or the free cores. The result does not
            depend on it.
        checkpoint : path, optional
            File for the state of the fit. If it exists the fit continues from it, to the
            model it would have given without the interruption; it is removed in the end.
        checkpoint_interval : float, default=60
            Seconds between two states (more where writing would take over 5 % of the
            time).
        client : distributed.Client, optional
            Its Dask workers do the bulk of the work (extra ``dask``), to the same model as
            one process on the same kind of processor; `n_threads` and `checkpoint` then
            play no part in it.
        self_test : bool, default=True
            Try the model in short dynamics, compression, collisions and displacements
            (`kernelpot.md.self_test`): seconds to a minute. The verdict is in `summary`
            and in the model file; calculators of a model that fails warn.
        progress : callable, optional
            Called as ``progress(stage, done, total)``; `done` and `total` count the
            expected work of the whole fit, so that what remains can be told from what
            has passed.

        Returns
        -------
        self : KernelPotential

        Raises
        ------
        ValueError
            If data or parameters are unusable, or the checkpoint belongs to another fit;
            the message names the remedy.

        Warns
        -----
        FewDataWarning
            If the data are too few to rely on the model; with the remedy.

        Examples
        --------
        On a cluster; a worker that dies costs its share of the work, not the fit.

        >>> from distributed import Client  # doctest: +SKIP
        >>> client = Client("tcp://scheduler:8786")  # doctest: +SKIP
        >>> pot = KernelPotential().fit("train.xyz", client=client)  # doctest: +SKIP
        """
        # imported here: whoever only predicts need not wait for it
        from kernelpot.fit.pipeline import Options, fit
        from kernelpot.fit.sufficiency import FewDataWarning

        options = Options(
            optimize=optimize,
            calibrate=calibrate,
            memory=memory,
            n_threads=n_threads,
            checkpoint=checkpoint,
            checkpoint_interval=checkpoint_interval,
            client=client,
            progress=progress,
        )
        dataset = read_dataset(data, keys=keys)
        self.fitted_ = fit(dataset, self._settings(), options)
        self._golden = file.smallest([frame.atoms for frame in canonical_order(dataset)])
        if self_test and any(len(frame) > 1 and frame.energy is not None for frame in dataset):
            self.test_itself(dataset, n_threads=n_threads, progress=progress)
        for text in self.fitted_.training.shortcomings:
            warn_user(text, FewDataWarning)
        return self

    @single_blas_thread()
    def test_itself(
        self,
        data: Any,
        *,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> SelfTest:
        """Try the model where data end: short dynamics, compression, collisions, displacements.

        The verdict becomes part of the model, and of its summary and file.

        Parameters
        ----------
        data : path, glob pattern, Dataset, ase.Atoms or sequence of these
            Structures with energies to start from, those of the fit for example.
        keys : LabelKeys, optional
            Names of the labels.
        n_threads : int, optional
            As in `fit`.
        progress : callable, optional
            As in `fit`, for this stage.

        Returns
        -------
        SelfTest

        Raises
        ------
        ValueError
            If no structure of more than one atom has an energy.
        """
        from kernelpot.md.self_test import run_self_test

        found = run_self_test(
            self.model, read_dataset(data, keys=keys), n_threads=n_threads, progress=progress
        )
        self.fitted_ = replace(self.model, self_test=found)
        return found

    @single_blas_thread()
    def update(
        self,
        data_new: Any,
        *,
        add_sparse: int = 0,
        data: Any = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> KernelPotential:
        """Learn from more structures without the old ones.

        The new labels are annihilated into the factor that the fit left: the result is,
        to rounding, that of a fit to old and new data together with the same sparse
        points, e0, baseline and noise, at the cost of the new data alone. These four
        stay as they are; so a warning is given where new structures reach closer than
        the wall was built for. Of whole quadratic forms, the default of molecules, the
        columns of the regression learn; all coefficients with `data`, which costs
        iterations over all structures.

        Parameters
        ----------
        data_new : path, glob pattern, Dataset, ase.Atoms or sequence of these
            New labelled structures, not those of the fit (they would count twice).
        add_sparse : int, default=0
            Sparse points to add per term: the new environments farthest from the present
            ones. Needs `data` and costs a whole fit, as the labels of every structure
            have something to say about a new point.
        data : path, Dataset, ..., optional
            All structures the model was fitted to so far.
        keys : LabelKeys, optional
            Names of the labels.
        n_threads : int, optional
            As in `fit`.
        progress : callable, optional
            As in `fit`, for each stage.

        Returns
        -------
        self : KernelPotential

        Raises
        ------
        ValueError
            If a new structure has a species the model does not know, or `add_sparse` is
            asked for without `data`.
        """
        from kernelpot.fit.update import update

        new = read_dataset(data_new, keys=keys)
        self.fitted_ = update(
            self.model,
            new,
            add_sparse=add_sparse,
            data=None if data is None else read_dataset(data, keys=keys),
            n_threads=thread_count(n_threads),
            progress=progress,
        )
        self._golden = file.smallest([self._golden, *(frame.atoms for frame in new)])
        return self

    def _settings(self) -> Settings:
        from kernelpot.fit.settings import Settings

        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    # ---- prediction ----------------------------------------------------------------

    @property
    def model(self) -> FittedModel:
        """What `fit` found; immutable, a new fit makes a new one.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before the first fit.
        """
        if not hasattr(self, "fitted_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this KernelPotential is not fitted yet: call fit()")
        return self.fitted_

    @property
    def r_cut(self) -> float:
        """Distance beyond which atoms do not interact [Å]."""
        return self.model.r_cut

    def predict(
        self,
        atoms: Atoms,
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | bool = False,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> Prediction:
        """Predict energy, forces and stress.

        Parameters
        ----------
        atoms : ase.Atoms
            Any periodicity; not modified.
        return_std : bool or "local", default=False
            Also compute standard deviations of errors. ``"local"``: `energies_std` and
            `spilling` only, at two to three times the cost of the prediction alone. True:
            `energy_std`, `forces_std`, `stress_std` and `outside` too, at the cost of some
            ten to fifteen predictions; those of the posterior itself (`Prediction.posterior`)
            cost some hundred, when they are looked at.
        gate : bool or VarianceGate, default=False
            Whether local energies are raised where their environment is not known (the
            safety net of `kernelpot.safety.gate`); True: by what the fit found. Standard
            deviations are those of the kernels, gated or not.
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
        return self.model.predict(
            atoms,
            return_std=return_std,
            gate=as_gate(gate),
            neighbors=neighbors,
            n_threads=n_threads,
        )

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | bool = False,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict many structures; small ones are evaluated together, which is faster.

        Parameters
        ----------
        structures : sequence of ase.Atoms
        return_std : bool or "local", default=False
            As in `predict`.
        gate : bool or VarianceGate, default=False
            As in `predict`.
        n_threads : int, optional
            As in `fit`.
        names : sequence of str, optional
            What to call the structures in messages.

        Yields
        ------
        Prediction
            Of each structure in turn, equal to `predict` to rounding.

        Raises
        ------
        ValueError
            Before anything is computed, if a structure has an unknown species or is not
            sound.
        """
        yield from self.model.predict_many(
            structures,
            return_std=return_std,
            gate=as_gate(gate),
            n_threads=n_threads,
            names=names,
        )

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Standard deviation of each local energy, without forces.

        Parameters
        ----------
        atoms : ase.Atoms
        n_threads : int, optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV]; the `energies_std` of `predict`.

        Raises
        ------
        ValueError
            As `predict`.
        """
        return self.model.local_std(atoms, n_threads=n_threads)

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

        Raises
        ------
        ValueError
            As `predict`.
        """
        return self.model.variance_gradient(atoms, weights)

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
        from kernelpot.md.calculator import KernelPotCalculator

        return KernelPotCalculator(self, **options)

    def sample(
        self, n: int, rng: np.random.Generator | int | None = None
    ) -> Committee[KernelPotential]:
        r"""Draw potentials from the posterior, to give any property an error bar.

        The weights of each are :math:`w + a R^{-1} z` with standard normal z. Their spread
        is what the data leave open between the sparse points, times the a with which
        forces of structures left out spread as much as they err (1 for a model that is not
        calibrated): within the data that of forces is `Prediction.forces_std`, but for its
        constant part, which only its mean square shares. What the sparse points do
        not span (`spilling`) is zero in all of them. ``committee.predict(atoms)`` has
        the energies, forces and stresses of all; ``committee[i]`` is a potential of its
        own, for whatever takes a calculator.

        Parameters
        ----------
        n : int
            How many.
        rng : numpy.random.Generator or int, optional
            Generator, or seed of one.

        Returns
        -------
        Committee

        Raises
        ------
        ValueError
            If `n` is not positive.
        """
        from kernelpot.model.committee import Committee

        return Committee.draw(self.model, self._with, n, np.random.default_rng(rng))

    def _with(self, model: FittedModel) -> KernelPotential:
        """The same potential with another model."""
        other = copy.copy(self)
        other.fitted_ = model
        return other

    def suspicious(
        self,
        data: Any,
        *,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> Suspects:
        """Rank labels by how much they contradict what all other data say.

        Frames that were fitted are left out one at a time, in closed form; others are
        compared with the prediction.

        Parameters
        ----------
        data : path, Dataset, ...
            Whatever `read_dataset` takes: the training data, or any other.
        keys : LabelKeys, optional
        n_threads : int, optional
            As in `fit`.
        progress : callable, optional

        Returns
        -------
        Suspects
            Worst first; ``print`` it, or take the ``.flagged`` ones.

        Raises
        ------
        ValueError
            If the data are unusable, without labels of more than one atom, or of a species the
            model does not know.

        Examples
        --------
        One energy is wrong by 20 eV.

        >>> from dataclasses import replace
        >>> import kernelpot as kp
        >>> from kernelpot.datasets import load_silicon
        >>> frames = list(load_silicon())
        >>> frames[20] = replace(frames[20], energy=frames[20].energy + 20.0)
        >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
        >>> pot = kp.KernelPotential(terms, baseline=[kp.Wall()])
        >>> pot = pot.fit(kp.Dataset(frames), optimize=None)
        >>> worst = pot.suspicious(kp.Dataset(frames)).flagged[0]
        >>> worst.name == frames[20].name, worst.quantity
        (True, 'energy')
        """
        from kernelpot.model.suspects import find_suspects

        return find_suspects(
            self.model,
            read_dataset(data, keys=keys),
            n_threads=thread_count(n_threads),
            progress=progress,
        )

    @property
    def plot(self) -> Plots:
        """Pictures: parity, calibration, uncertainty, dimers, scans, ...; see `Plots`."""
        from kernelpot.plot.plots import Plots

        return Plots(self)

    # ---- reports -------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything that was chosen and found, as plain data.

        Returns
        -------
        dict
            Species, terms, sparse counts and ranks, sigmas, e0, baseline, training
            counts and errors.
        """
        return self.model.describe()

    def summary(self) -> str:
        """Explain in words what was chosen, from what, and how well it fits.

        Returns
        -------
        str
            Text with units, to be printed.
        """
        return summary_text(self.describe(), self.model.baseline)

    def _repr_html_(self) -> str:
        """Show in a notebook the parameters given, and what was fitted."""
        if not hasattr(self, "fitted_"):
            given = [(name, repr(value)) for name, value in self._changed().items()]
            return card(
                "KernelPotential, not fitted yet", given or [("parameters", "all by default")]
            )
        return summary_card(self.describe(), self.summary())

    # ---- file ----------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        slim: bool = False,
        author: str | None = None,
        licence: str | None = None,
    ) -> None:
        """Write the model to one ``.kpot`` file (no pickle), replacing it atomically.

        Parameters
        ----------
        path : path
        slim : bool, default=False
            Keep what prediction and calculators need, and not the factor of the training:
            a smaller file, without standard deviations of energies, forces and stress (local
            ones are there), samples, suspects and updates.
        author, licence : str, optional
            Of the model, kept in the file and in this potential; shown by `summary` and
            ``kernelpot info``.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        """
        about = {"author": author, "licence": licence}
        given: dict[str, Any] = {k: v for k, v in about.items() if v is not None}
        if given:
            training = replace(self.model.training, **given)
            self.fitted_ = replace(self.model, training=training)
        file.save(self.model, path, self._golden, self._parameters(), slim=slim)

    def _parameters(self) -> dict[str, Any]:
        """Arguments of the constructor (given sparse points are not kept in files)."""
        return {k: v for k, v in self.get_params(deep=False).items() if k != "sparse_points"}

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
        fitted, golden, parameters = file.load(path, verify=verify)
        self = cls(**parameters)
        self.fitted_, self._golden = fitted, golden
        return self


def load(path: str | os.PathLike[str], *, verify: bool = True) -> KernelPotential:
    """Read a model file; see `KernelPotential.load`.

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
        If it is unusable; see `KernelPotential.load`.
    """
    return KernelPotential.load(path, verify=verify)
