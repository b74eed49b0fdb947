"""What LAMMPS finds on 1, 2 and 4 processes is what the ASE calculator says of the same atoms."""

import numpy as np
import pytest

from tests.md.conftest import BY_KIND, HERE, mpiexec

pytestmark = pytest.mark.slow

RANKS = (1, 2, 4)
CASES = (
    "nve", "half", "newton_off", "tiny", "triclinic", "tiled", "slab", "minimize", "every10",
    "alloy", "overlay", "restart",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(workplace):
    """Results of all runs, by number of processes."""
    results = {}
    for n in RANKS:
        output = workplace / f"cases-{n}.npz"
        mpiexec(n, HERE / "lammps_cases.py", output, cwd=workplace)
        with np.load(output) as file:
            results[n] = dict(file)
    return results


@pytest.fixture(params=RANKS)
def of(request, found):
    """Values of a case, on so many processes."""
    return lambda label: {
        key.split("/")[1]: value
        for key, value in found[request.param].items()
        if key.startswith(f"{label}/")
    }


@pytest.mark.parametrize("label", [*CASES, *(f"kind_{name}" for name in BY_KIND)])
def test_lammps_and_ase_agree(of, label):
    case = of(label)
    energy = float(case["expected_energy"])
    assert float(case["energy"]) == pytest.approx(energy, rel=1e-8)
    np.testing.assert_allclose(case["forces"], case["expected_forces"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(case["energies"], case["expected_energies"], rtol=0, atol=1e-8)
    assert np.abs(case["forces"]).max() > 1e-2 or label == "minimize"
    if "expected_virial" in case:
        for name in ("virial", "virials"):
            np.testing.assert_allclose(case[name], case[f"expected_{name}"], rtol=0, atol=1e-7)


def test_a_minimum_is_approached(of):
    start, end = of("newton_off"), of("minimize")  # of the same structure
    assert np.abs(end["forces"]).max() < 0.1 * np.abs(start["forces"]).max()
    assert float(end["energy"]) < float(start["energy"]) - 1.0


@pytest.mark.parametrize("label", ["nve", "half", "tiny", "slab", "alloy"])
def test_the_gate_is_the_same(of, label):
    case = of(label)
    np.testing.assert_allclose(case["penalty"], case["expected_penalty"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(case["bound"], case["expected_bound"], rtol=0, atol=1e-8)
    assert int(case["n_beyond"]) == int(np.sum(case["expected_penalty"] > 1e-3))
    if "std" in case:
        np.testing.assert_allclose(case["std"], case["expected_std"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("label", ["half", "alloy"])
def test_the_gate_is_half_closed(of, label):
    penalty = of(label)["penalty"]
    assert 0.2 < np.mean(penalty > 0) < 0.8


def test_charges_are_summed_by_lammps_and_damped_by_kernelpot(of):
    case = of("salt")
    np.testing.assert_allclose(case["forces"], case["expected_forces"], rtol=0, atol=1e-5)
    assert float(case["energy"]) == pytest.approx(float(case["expected_energy"]), rel=1e-6)
    np.testing.assert_allclose(case["virial"], case["expected_virial"], rtol=0, atol=1e-3)


def test_processes_may_own_nothing(found):
    assert found[4]["slab/own"] == 0
    assert found[1]["slab/own"] > 0


def test_lists_were_made_anew_and_kept(of):
    for label in ("nve", "tiled", "every10"):
        case = of(label)
        assert 1 <= case["builds"] < case["evaluations"]
    assert of("tiled")["builds"] > 3
    # two runs of 15 and 5 steps (the second without setup), and two of compare's
    assert of("every10")["builds"] == 5


@pytest.mark.parametrize("label", ["nve", "half", "triclinic", "tiled", "alloy"])
def test_the_number_of_processes_does_not_matter(found, label):
    one = found[1][f"{label}/forces"]
    for n in RANKS[1:]:
        np.testing.assert_allclose(found[n][f"{label}/forces"], one, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            found[n][f"{label}/positions"], found[1][f"{label}/positions"], rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("n", [1, 2])
def test_the_total_energy_fluctuates_with_the_square_of_the_time_step(found, n):
    wide, narrow = found[n]["order/40"], found[n]["order/80"]
    ratio = np.std(wide) / np.std(narrow)
    assert np.log2(ratio) == pytest.approx(2.0, abs=0.1)
