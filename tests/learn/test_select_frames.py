"""Choosing structures by what their labels would teach."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.fit.sparse_points import all_environments
from kernelpot.gp.blocks import Points
from kernelpot.gp.design import Design
from kernelpot.learn import select_frames
from tests.conftest import label, rattled_alloy, structures

TERMS = [
    kp.SOAPTerm(r_cut=3.4, n_max=4, l_max=3, sigma_atom=0.5, n_sparse=20),
    kp.SOAPTerm(r_cut=4.5, n_max=4, l_max=3, sigma_atom=0.6, n_sparse=20, zeta=3),
]


def copper(seed, amplitude=0.15):
    atoms = bulk("Cu", cubic=True)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell * (1.0 + 0.04 * rng.normal()), scale_atoms=True)
    atoms.positions += amplitude * rng.normal(size=atoms.positions.shape)
    return atoms


@pytest.fixture(scope="module")
def pot():
    """Knows little; all of what it was fitted to has energy, forces and virial."""
    return kp.KernelPotential(TERMS, baseline=[]).fit([label(copper(s)) for s in range(6)])


def unlabelled(atoms):
    """With labels of zero: variances do not depend on them."""
    bare = atoms.copy()
    bare.info["REF_energy"] = 0.0
    bare.arrays["REF_forces"] = np.full((len(atoms), 3), 1e-12)
    bare.info["REF_virial"] = np.zeros((3, 3))
    return bare


def scores_of(state, atoms):
    """Score by dense algebra: eigenvectors for the new points, an inverse for R."""
    model, design, precision = state
    wider = extended(model, design, [atoms])
    phi = rows_in(model, wider, atoms)
    covariance = np.linalg.inv(pad(precision, design, wider))
    variance = np.einsum("rm,mn,rn->r", phi, covariance, phi)
    n = len(atoms)
    forces = variance[1 : 1 + 3 * n] * model.noise.sigma_forces**2
    energy = variance[0] * model.noise.sigma_energy**2 * n
    return {"forces": np.sqrt(forces.mean()), "energy": np.sqrt(energy) / n}


def learned(state, atoms):
    model, design, precision = state
    wider = extended(model, design, [atoms])
    phi = rows_in(model, wider, atoms)
    return model, wider, pad(precision, design, wider) + phi.T @ phi


def extended(model, design, structures):
    """The design with all environments of some structures as further sparse points."""
    if np.isinf(select_frames.UNLEARNED):
        return design
    wider = []
    for block in design.blocks:
        term = design.terms[block.term]
        new = np.concatenate([unit_features(term, a) for a in structures])
        points, T = np.concatenate([block.points, new]), block.T
        P = term.kernel(new, block.points) @ T
        value, vector = np.linalg.eigh(term.kernel(new, new) - P @ P.T)
        assert value.min() > 1e-11  # above rounding, which it magnifies
        rest = vector / np.sqrt(value)
        T = np.block([[T, -T @ P.T @ rest], [np.zeros((len(new), T.shape[1])), rest]])
        identity = np.eye(T.shape[1])
        np.testing.assert_allclose(T.T @ term.kernel(points, points) @ T, identity, atol=1e-3)
        wider.append((Points(block.term, block.key, points), T))
    return Design.known(model.species, design.terms, wider)


def unit_features(term, atoms):
    return term.kernel.embed(all_environments(term, atoms).x)[0]


def rows_in(model, design, atoms):
    found = design.rows(list(kp.read_dataset(unlabelled(atoms))), model.noise)
    return found.phi / found.noise(model.noise.sigma)[:, None]


def pad(precision, old, new):
    """Nothing is known of new columns but their prior; the virial offset comes last."""
    wider = np.eye(new.n_columns)
    place = []
    for block, longer in zip(old.blocks, new.blocks, strict=True):
        start = longer.columns.start
        place += range(start, start + block.T.shape[1])
    place.append(new.n_columns - 1)
    wider[np.ix_(place, place)] = precision
    return wider


@pytest.mark.parametrize("kind", ["forces", "energy"])
@pytest.mark.parametrize("unlearned", [1e-8, np.inf])
def test_the_choice_is_that_of_starting_anew_for_every_candidate(pot, kind, unlearned, monkeypatch):
    monkeypatch.setattr(select_frames, "UNLEARNED", unlearned)
    pool = [copper(50 + s, 0.2 + 0.02 * s) for s in range(6)]
    found = kp.select_frames(pot, pool, 4, score=kind)
    model = pot.model
    factor = model.factor.R.T @ model.factor.R
    state = model, model.design, factor
    left = list(range(len(pool)))
    for index, value in zip(found, found.scores, strict=True):
        scores = {i: scores_of(state, pool[i])[kind] for i in left}
        assert index == max(scores, key=scores.get)
        assert value == pytest.approx(scores[index], rel=1e-3)
        state = learned(state, pool[index])
        left.remove(index)
    assert len(found) == 4
    assert found.n_evaluations < 6 + 5 + 4 + 3


def test_the_variance_foreseen_is_that_after_the_update(pot, monkeypatch, tmp_path):
    """Without new sparse points a choice is what the public update makes of it."""
    monkeypatch.setattr(select_frames, "UNLEARNED", np.inf)
    pool = [copper(20 + s) for s in range(5)]
    found = kp.select_frames(pot, pool, 5)
    assert np.all(np.diff(found.scores) <= 0)
    assert sorted(found) == list(range(5))
    pot.save(tmp_path / "start.kpot")
    updated = kp.load(tmp_path / "start.kpot")
    for index in list(found)[:3]:
        updated.update([unlabelled(pool[index])])
    last = pool[found.indices[3]]
    again = kp.select_frames(updated, [last], 1)
    assert found.scores[3] == pytest.approx(again.scores[0], rel=1e-6)


def test_the_mean_variance_foreseen_is_that_after_the_update(pot, tmp_path):
    pool = [copper(20 + s, 0.1 + 0.05 * s) for s in range(5)]
    progress = []
    options = {"score": "mean_forces", "progress": lambda *args: progress.append(args)}
    found = kp.select_frames(pot, pool, 3, n_threads=2, **options)
    assert progress[-1] == ("choice", 3, 3)
    again = kp.select_frames(pot, pool, 3, n_threads=1, **options)
    np.testing.assert_array_equal(again.scores, found.scores)
    pot.save(tmp_path / "start.kpot")

    def left(indices):
        updated = kp.load(tmp_path / "start.kpot")
        updated.update([unlabelled(pool[index]) for index in indices])
        factor, variances = updated.model.factor, []
        for atoms in pool:
            rows, unit = select_frames._State.of(updated.model).rows(atoms)
            forces = slice(1, 1 + 3 * len(atoms))
            variances.append(factor.open_variance(rows[forces]) * unit[forces] ** 2)
        return np.sqrt(np.mean(variances))

    assert found.scores[2] == pytest.approx(left(found), rel=1e-6)
    others = [left([index]) for index in range(5)]
    assert found.indices[0] == np.argmin(others)
    assert found.scores[0] == pytest.approx(min(others), rel=1e-6)


def test_duplicates_come_after_everything_that_is_new():
    # labels that leave nothing open: to measure the same again teaches nothing
    frames = [label(copper(s)) for s in range(6)]
    exact = {"sigma_energy": 1e-5, "sigma_forces": 1e-4, "sigma_stress": 1e-6}
    pot = kp.KernelPotential(TERMS, baseline=[], **exact).fit(frames)
    distinct = [copper(30, 0.2), bulk("Cu", "bcc", a=2.8, cubic=True), structures()["wire"]]
    distinct[1].positions[0] += 0.3
    distinct[2].numbers[:] = 29
    distinct.append(Atoms("Cu3", [[0, 0, 0], [2.3, 0, 0.2], [0.3, 2.6, 0.5]]))
    turned = distinct[1].copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    repeated = [distinct[0], distinct[0].repeat((2, 1, 1)), turned, distinct[0], distinct[1]]
    pool = [*repeated, *distinct]
    kind_of = [0, 0, 1, 0, 1, 0, 1, 2, 3]
    for score in ("forces", "energy"):
        found = kp.select_frames(pot, pool, len(pool), score=score)
        assert sorted(kind_of[i] for i in list(found)[:4]) == [0, 1, 2, 3]
        assert sorted(found) == list(range(len(pool)))


def test_every_periodicity_and_species(potential):
    pool = [rattled_alloy(300 + s, (1, 1, 1), 0.1 + 0.05 * s) for s in range(4)]
    pool += [structures()["slab"], structures()["cluster"], Atoms("Cu")]
    progress = []
    found = kp.select_frames(potential, pool, 7, progress=lambda *args: progress.append(args))
    assert found.indices[-1] == 6  # a free atom has no forces to learn
    assert found.scores[-1] == pytest.approx(0.0, abs=1e-10)
    assert progress[-1] == ("choice", 7, 7)
    again = kp.select_frames(potential, pool, 7)
    np.testing.assert_array_equal(again.indices, found.indices)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_what_cannot_be_chosen_is_refused(pot):
    pool = [copper(1), copper(2)]
    for n in (0, 3):
        with pytest.raises(ValueError, match="`n` must be between 1 and the number of candidates"):
            kp.select_frames(pot, pool, n)
    with pytest.raises(ValueError, match="structure 1: .*Au"):
        kp.select_frames(pot, [copper(1), Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]])], 1)
    with pytest.raises(ValueError, match="structure 0: .* sit on one spot"):
        kp.select_frames(pot, [Atoms("Cu2", np.zeros((2, 3)))], 1)
    with pytest.raises(ValueError, match="`score` must be one of forces, energy"):
        kp.select_frames(pot, pool, 1, score="sum")
