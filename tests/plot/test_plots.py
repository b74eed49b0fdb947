"""Pictures: what is drawn is what was computed, on the axes that were given, with units."""

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from ase import Atoms
from matplotlib import pyplot
from matplotlib.figure import Figure

import kernelpot as kp
from kernelpot.common.axes import COLORS, OTHERS, grouped
from kernelpot.plot.comparison import PROMISED, reliability
from kernelpot.plot.environments import environment_map
from kernelpot.plot.scans import dimer_curve, structure_name
from tests.conftest import label, rattled_alloy, structures


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def unseen():
    return kp.read_dataset(
        [label(rattled_alloy(900 + s, (1, 1, 1)), "odd" if s % 2 else "even") for s in range(6)]
    )


def axes_of_a_figure():
    return Figure(figsize=(3, 3), layout="constrained").subplots()


def line(axes, name):
    (found,) = [entry for entry in axes.lines if entry.get_label() == name]
    return np.array(found.get_data(), dtype=float)


def readable(axes):
    """Whether it can be drawn, with names and units on both axes."""
    axes.figure.savefig(io.BytesIO(), format="png")
    return "[" in axes.get_xlabel() + axes.get_ylabel() and bool(axes.get_xlabel())


def test_parity_draws_labels_and_predictions_of_each_group(potential, unseen):
    axes = axes_of_a_figure()
    assert potential.plot.parity(unseen, "forces", axes=axes) is axes
    assert readable(axes)
    for group in ("odd", "even"):
        own = [f for f in unseen if f.config_type == group]
        expected = np.concatenate([f.forces.ravel() for f in own])
        found = np.concatenate([potential.predict(f.atoms).forces.ravel() for f in own])
        drawn = line(axes, group)
        np.testing.assert_allclose(drawn, [expected, found], atol=1e-9)
    mae = kp.evaluate(potential, unseen)["forces_mae_ev_per_ang"]
    assert f"MAE {mae:.3g}" in axes.texts[0].get_text()
    # a limit that cuts points off would hide the worst
    drawn = np.concatenate([line(axes, group) for group in ("odd", "even")], axis=1)
    assert axes.get_xlim()[0] < drawn.min()
    assert drawn.max() < axes.get_xlim()[1]
    assert axes.get_xlim() == axes.get_ylim()


def test_parity_of_energies_is_over_free_atoms_and_of_stress_in_gpa(potential, unseen):
    from ase.units import GPa

    axes = potential.plot.parity(unseen, label="test")
    free = [potential.model.e0.total(f.atoms.numbers) for f in unseen]
    expected = [(f.energy - e) / len(f) for f, e in zip(unseen, free, strict=True)]
    np.testing.assert_allclose(line(axes, "test")[0], expected, atol=1e-12)
    same = potential.plot.parity(unseen, label="again", axes=axes)
    colors = [entry.get_color() for entry in same.lines if entry.get_label() in ("test", "again")]
    assert colors == [COLORS[0], COLORS[1]]
    stress = potential.plot.parity(unseen, "stress", label="s")
    np.testing.assert_allclose(line(stress, "s")[0], np.ravel([f.stress / GPa for f in unseen]))
    with pytest.raises(ValueError, match=r"energy, forces, stress\), got 'virial'"):
        potential.plot.parity(unseen, "virial")


def test_calibration_and_uncertainty_are_those_of_predictions(potential, unseen):
    found = reliability(potential, unseen)
    errors, widths = [], {level: [] for level in (0.5, 0.95)}
    for frame in unseen:
        predicted = potential.predict(frame.atoms, return_std=True)
        errors.append((predicted.forces - frame.forces).ravel())
        for level, own in widths.items():
            own.append(predicted.interval(level).forces.ravel())
    error = np.abs(np.concatenate(errors))
    axes = potential.plot.calibration(unseen)
    promised, covered = line(axes, "intervals")
    for level, own in widths.items():
        expected = 100 * np.mean(error <= np.concatenate(own))
        assert covered[PROMISED.index(level)] == pytest.approx(expected)
        assert promised[PROMISED.index(level)] == pytest.approx(100 * level)
    assert readable(axes)
    axes = potential.plot.uncertainty(unseen)
    std, rmse = line(axes, "root mean square of a tenth")
    np.testing.assert_allclose(std, found.bin_std)
    np.testing.assert_allclose(rmse, found.bin_rmse)
    assert np.sum(found.error**2) == pytest.approx(np.sum(error**2))
    assert readable(axes)


def test_standard_deviations_are_looked_at_evenly_over_the_data(potential, monkeypatch):
    monkeypatch.setattr("kernelpot.plot.comparison.MAX_STD_ATOMS", 12)
    frames = [label(rattled_alloy(900 + s, (1, 1, 1))) for s in range(7)]
    seen = []
    original = potential.predict_many
    monkeypatch.setattr(
        potential,
        "predict_many",
        lambda atoms, **options: seen.extend(options["names"]) or original(atoms, **options),
        raising=False,
    )
    data = kp.read_dataset(frames)
    assert reliability(potential, data).n_structures == 3
    assert seen == [data[0].name, data[3].name, data[6].name]


def test_dimers_mark_the_data_the_wall_and_the_gate(potential):
    axes = potential.plot.dimers("Cu-Al")
    assert readable(axes)
    assert axes.get_xlabel() == "Al-Cu distance [Å]"
    r, energy = line(axes, "with the gate")
    assert np.all(np.diff(r) < 0.05)
    free = sum(potential.model.e0.e0.values())
    for k in (3, 150):
        dimer = Atoms("AlCu", [[0, 0, 0], [0, 0, r[k]]])
        assert energy[k] == pytest.approx(potential.predict(dimer, gate=True).energy - free)
    assert line(axes, "shortest in the data")[0][0] == potential.model.safety.d_min[13, 29]
    assert {"kernels alone", "wall and baseline"} <= {entry.get_label() for entry in axes.lines}
    curve = dimer_curve(potential, (13, 29))
    dimer = Atoms("AlCu", [[0, 0, 0], [0, 0, curve.x[100]]])
    assert curve.energy_std[100] == pytest.approx(
        potential.predict(dimer, return_std=True).energy_std
    )
    assert potential.plot.dimers().get_legend().get_texts()[0].get_text() == "Al-Al"
    with pytest.raises(ValueError, match="knows Al, Cu, not 'Au'"):
        potential.plot.dimers("Cu-Au")
    with pytest.raises(ValueError, match="written as 'Si-O'"):
        potential.plot.dimers("Cu")


def test_a_pair_that_the_data_do_not_have_has_no_shortest_distance():
    apart = []
    for seed in range(6):
        single = Atoms("CuAl", [[0, 0, 0], [0, 0, 2.3]])
        single.positions += 0.1 * np.random.default_rng(seed).normal(size=(2, 3))
        apart.append(label(single))
    pot = kp.KernelPotential([kp.SOAPTerm(r_cut=3.6, n_max=4, l_max=3)], baseline=[kp.Wall()]).fit(
        apart, optimize=None, calibrate=False
    )
    assert dimer_curve(pot, (13, 29)).mark is not None
    assert dimer_curve(pot, (13, 13)).mark is None


def test_scan_of_a_structure_and_of_a_path(potential):
    crystal = rattled_alloy(3, (1, 1, 1))
    axes = potential.plot.scan(crystal, [0.9, 1.0, 1.1])
    factors, energy = line(axes, "kernels alone")
    assert list(factors) == [0.9, 1.0, 1.1]
    free = potential.model.e0.total(crystal.numbers)
    assert energy[1] == pytest.approx((potential.predict(crystal).energy - free) / 4)
    assert "crystal, 4 atoms per cell" in axes.get_title()
    path = [Atoms("CuAl", [[0, 0, 0], [0, 0, r]]) for r in (2.2, 2.4)]
    axes = potential.plot.scan(path, [2.2, 2.4], x_label="distance [Å]", title="pulled apart")
    assert (axes.get_xlabel(), axes.get_title()) == ("distance [Å]", "pulled apart")
    with pytest.raises(ValueError, match="got 1 for 2"):
        potential.plot.scan(path, [2.2])


def test_structures_are_called_what_they_are():
    kinds = structures()
    assert structure_name(kinds["tiny"]) == "Al crystal, 1 atom per cell"
    assert structure_name(kinds["slab"]).endswith("slab, 4 atoms per cell")
    assert structure_name(kinds["cluster"]) == "AlCu3 molecule"
    assert structure_name(Atoms("Si2", [[0, 0, 0], [0, 0, 2]])) == "Si2 dimer"


def test_the_map_is_of_the_leading_components(potential, unseen):
    found = environment_map(potential.model, unseen, number=13)
    n = sum(int((f.atoms.numbers == 13).sum()) for f in unseen)
    assert len(found.x) == len(found.std) == n
    # of what varies most first, around its mean
    np.testing.assert_allclose(found.x.mean(axis=0), 0, atol=1e-9)
    assert found.x[:, 0].var() >= found.x[:, 1].var() > 0
    assert 0 < found.explained[1] <= found.explained[0] < 1
    k = n // 2
    frame = unseen[found.structure[k]]
    assert frame.atoms.numbers[found.center[k]] == 13
    assert found.std[k] == pytest.approx(potential.local_std(frame.atoms)[found.center[k]])
    blocks = [b for b in potential.model.design.blocks if b.key == (13,)]
    assert len(found.points) == len(blocks[0].points)
    axes = potential.plot.sparse_points(unseen, "Al")
    assert len(axes.collections[0].get_offsets()) == n
    assert readable(axes) or "variance" in axes.get_xlabel()
    with pytest.raises(ValueError, match="between 0 and 1, got 7"):
        potential.plot.sparse_points(unseen, term=7)


def test_sparse_points_lie_on_the_environments_they_were_chosen_from(potential, labelled):
    data = kp.read_dataset(labelled)
    found = environment_map(potential.model, data, number=29)
    distance = np.linalg.norm(found.points[:, None] - found.x[None], axis=-1).min(axis=1)
    spread = np.ptp(found.x, axis=0).max()
    assert distance.max() < 1e-5 * spread


def test_terms_without_environments_have_no_map(unseen, labelled):
    pot = kp.KernelPotential([kp.PairTerm(r_cut=4.0, n_sparse=10)], baseline=[]).fit(
        labelled, optimize=None, calibrate=False
    )
    with pytest.raises(ValueError, match="no term of this model compares whole environments"):
        pot.plot.sparse_points(unseen)


def test_a_learning_curve_refits_with_the_same_parameters(labelled, unseen):
    pot = kp.KernelPotential([kp.SOAPTerm(r_cut=3.6, n_max=4, l_max=3, n_sparse=20)], seed=3).fit(
        labelled, optimize=None, calibrate=False
    )
    before = pot.fitted_
    axes = pot.plot.learning_curve(labelled, unseen, "energy", sizes=[24, 12], optimize=None)
    assert pot.fitted_ is before
    sizes, mae = axes.lines[0].get_data()
    assert list(sizes) == [12, 24]
    # all of the data: the potential itself
    whole = kp.evaluate(pot, unseen)["energy_mae_mev_per_atom"]
    assert mae[1] == pytest.approx(whole, rel=1e-6)
    assert readable(axes)
    with pytest.raises(ValueError, match="between 1 and 24"):
        pot.plot.learning_curve(labelled, unseen, sizes=[25])


@pytest.mark.parametrize("quantity", ["energy", "forces", "pressure"])
def test_data_show_what_there_is_of_each_group(labelled, quantity):
    data = kp.read_dataset(labelled)
    axes = data.plot(quantity)
    assert readable(axes)
    names = [text.get_text() for text in axes.get_yticklabels()]
    count = {"energy": "bulk (14)", "forces": "bulk (56)", "pressure": "bulk (14)"}[quantity]
    assert count in names
    if quantity == "energy":
        drawn = np.concatenate([np.asarray(entry.get_xdata()) for entry in axes.lines[::2]])
        assert drawn.min() == 0.0
    with pytest.raises(ValueError, match="must be one of energy, forces"):
        data.plot("virial")


def test_distances_are_neighbors_per_atom():
    crystal = Atoms("CuAl", [[0, 0, 0], [2, 2, 2]], cell=[4, 4, 4], pbc=True)  # CsCl
    axes = kp.read_dataset([label(crystal)]).plot("distances")
    r, density = line(axes, "Al-Cu")
    near = r < 4.0
    # each aluminium has eight of copper at the half diagonal
    assert density[near].sum() * 0.05 == pytest.approx(8)
    assert r[near][np.argmax(density[near])] == pytest.approx(2 * 3**0.5, abs=0.05)
    r, density = line(axes, "Al-Al")
    assert density[r < 4.5].sum() * 0.05 == pytest.approx(6)


def test_more_groups_than_colours_share_the_last():
    names = [f"g{k}" for k in range(9) for _ in range(9 - k)]
    shown, number = grouped(names)
    assert shown == ["g0", "g1", "g2", "g3", "g4", OTHERS]
    assert [shown[k] for k in number[-3:]] == [OTHERS] * 3
    assert shown[number[0]] == "g0"


def test_nothing_imports_matplotlib_until_it_draws():
    code = (
        "import sys, kernelpot as kp\n"
        "from kernelpot.datasets import load_silicon\n"
        "kp.Plots, kp.KernelPotential, load_silicon(), repr(kp.KernelPotential().plot)\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_one_sentence_says_what_to_do(labelled, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        kp.read_dataset(labelled).plot()
