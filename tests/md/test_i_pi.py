"""Forces through i-PI's protocol, by ASE's client and server: what the calculator finds itself."""

import threading
import uuid

import numpy as np
import pytest
from ase.calculators.socketio import SocketClient, SocketIOCalculator

import kernelpot as kp
from tests.conftest import label, rattled_alloy, structures
from tests.md.conftest import BY_KIND


def of_atoms(labelled):
    return BY_KIND["sum"], labelled[:12], rattled_alloy(5, (1, 1, 1), 0.08)


def of_molecules(labelled):
    frames = []
    for seed in range(10):
        cluster = structures()["cluster"]
        cluster.positions += 0.1 * np.random.default_rng(seed).normal(size=(4, 3))
        frames.append(label(cluster))
    return [kp.GDMLTerm(n_sparse=12)], frames[:9], frames[9]


@pytest.mark.parametrize("example", [of_atoms, of_molecules])
def test_a_client_sends_what_the_calculator_finds(example, labelled):
    terms, frames, atoms = example(labelled)
    pot = kp.KernelPotential(terms, baseline=[])
    pot.fit(frames, optimize=None, self_test=False)
    of_client = atoms.copy()
    of_client.cell = atoms.cell.array if atoms.cell.rank == 3 else 20.0 * np.eye(3)
    of_client.calc = pot.calculator()
    name = f"kernelpot_{uuid.uuid4().hex[:12]}"
    with SocketIOCalculator(unixsocket=name, timeout=60) as server:
        client = SocketClient(unixsocket=name, timeout=60)
        of_crystal = bool(atoms.pbc.all())
        thread = threading.Thread(target=client.run, args=(of_client, of_crystal), daemon=True)
        thread.start()
        moved = atoms.copy()
        moved.cell = of_client.cell
        moved.calc = server
        for seed in range(2):
            moved.positions += 0.02 * np.random.default_rng(seed).normal(size=(len(moved), 3))
            alone = atoms.copy()
            alone.positions = moved.positions
            expected = pot.predict(alone)
            assert np.abs(expected.forces).max() > 0.1
            # positions travel in units of the Bohr radius
            assert moved.get_potential_energy() == pytest.approx(expected.energy, abs=1e-8)
            np.testing.assert_allclose(moved.get_forces(), expected.forces, rtol=0, atol=1e-8)
            if of_crystal:
                np.testing.assert_allclose(moved.get_stress(), expected.stress, rtol=0, atol=1e-8)
    thread.join(60)
    assert not thread.is_alive()
