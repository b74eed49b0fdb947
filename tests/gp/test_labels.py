"""Targets and noise of labels."""

import numpy as np
import pytest

from kernelpot import read_dataset
from kernelpot.gp.labels import ABSOLUTE, Noise, bulk_volume, observe
from tests.conftest import label, rattled_alloy, structures


@pytest.fixture
def frames():
    crystal = label(rattled_alloy(0, (1, 1, 1)), "bulk")
    cluster = label(structures()["cluster"], "cluster")
    del cluster.info["REF_energy"]
    return list(read_dataset([crystal, cluster]))


def test_rows_targets_and_noise(frames):
    noise = Noise(0.002, 0.1, 0.005, {"cluster": {"forces": 0.3}}, bulk_volume(frames))
    crystal, cluster = frames
    found = observe(frames, noise)
    # layout: 2 energies, 3 x 8 forces, 6 x 2 virials; the cluster has forces only
    expected = [0, *range(2, 14), *range(26, 32), *range(14, 26)]
    assert found.rows.tolist() == expected
    np.testing.assert_allclose(found.y[0], crystal.energy)
    np.testing.assert_allclose(found.y[1:13], crystal.forces.ravel())
    np.testing.assert_allclose(found.y[13:19], crystal.virial)
    assert found.kind.tolist() == [0] + 12 * [1] + 6 * [2] + 12 * [1]
    volume = crystal.atoms.get_volume() / 4
    sigma = np.array([noise.sigma(group) for group in found.groups])[found.group] * found.unit
    np.testing.assert_allclose(sigma[0], 0.002 * 2)
    np.testing.assert_allclose(sigma[1:13], 0.1)
    np.testing.assert_allclose(sigma[13:19], 0.005 * volume * 2)
    np.testing.assert_allclose(sigma[19:], 0.3)


def test_vacuum_does_not_count_as_volume(frames):
    slab = label(rattled_alloy(0, (1, 1, 1)))
    slab.set_cell(slab.cell.array * [[1, 1, 1], [1, 1, 1], [5, 5, 5]])
    slab.info["REF_virial"] = np.eye(3)
    frame = read_dataset(slab)[0]
    bulk = bulk_volume(frames)
    noise = Noise(0.002, 0.1, 0.005, {}, bulk)
    _, _, (group, unit) = noise.of(frame)
    assert noise.sigma(group) * unit == pytest.approx(0.005 * bulk * 2)


def test_values_of_a_structure_are_absolute(frames):
    atoms = label(rattled_alloy(0, (1, 1, 1)), "bulk")
    atoms.info.update(sigma_energy=0.7, sigma_forces=0.8, sigma_virial=0.9)
    noise = Noise(0.002, 0.1, 0.005, {"bulk": {"energy": 0.1}})
    stated = noise.of(read_dataset(atoms)[0])
    assert stated == ((ABSOLUTE, 0.7), (ABSOLUTE, 0.8), (ABSOLUTE, 0.9))
    assert noise.sigma(ABSOLUTE) == 1.0
    group, unit = noise.of(frames[0])[0]
    assert noise.sigma(group) * unit == pytest.approx(0.1 * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.1, 0.1), "`sigma_energy` must be positive"),
        ((0.1, np.nan, 0.1), "`sigma_forces` must be positive"),
        ((0.1, 0.1, -1.0), "`sigma_stress` must be positive"),
        ((0.1, 0.1, 0.1, {"a": {"force": 0.1}}), "of 'a' must name energy, forces, stress"),
        ((0.1, 0.1, 0.1, {"a": {"forces": 0.0}}), "of 'a', forces, must be positive"),
    ],
)
def test_wrong_noise_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Noise(*arguments)
