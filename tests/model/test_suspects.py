"""Mislabelled frames head the list."""

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.datasets import load_ethanol, load_silicon


def planted(frames):
    """Five frames with a wrong label each, and what is wrong."""
    atoms = [frame for frame in frames]
    wrong = {}

    def replace(index, quantities, **changes):
        atoms[index] = kp.Frame(**{**vars_of(atoms[index]), **changes})
        wrong[index] = quantities

    # a crystal stretched by 30 % has no peers: nobody could tell whether its cell is wrong
    common = ("crystal", "rattled", "disordered")
    big = [k for k, f in enumerate(frames) if len(f) >= 8 and f.config_type in common]
    pick = [big[i] for i in np.linspace(0, len(big) - 1, 4).astype(int)]
    replace(pick[0], {"energy"}, energy=frames[pick[0]].energy + 0.5 * len(frames[pick[0]]))
    stressed = max(set(big) - set(pick), key=lambda k: np.abs(frames[k].stress).max())
    replace(stressed, {"stress", "energy"}, virial=-frames[stressed].virial)
    forces = frames[pick[1]].forces.copy()
    forces[2, 1] += 5.0
    replace(pick[1], {"forces"}, forces=forces)
    moved = frames[pick[2]].atoms.copy()
    moved.positions[0] += [0.35, -0.3, 0.25]
    replace(pick[2], {"forces", "energy", "stress"}, atoms=moved)
    cell = frames[pick[3]].atoms.copy()
    cell.set_cell(1.06 * cell.cell.array, scale_atoms=True)
    replace(pick[3], {"forces", "energy", "stress"}, atoms=cell)
    return kp.Dataset(atoms), wrong


def vars_of(frame):
    names = frame.__dataclass_fields__
    return {name: getattr(frame, name) for name in names}


@pytest.fixture(scope="module")
def silicon():
    return planted(load_silicon("train"))


@pytest.fixture(scope="module")
def fitted(silicon):
    return kp.KernelPotential(n_sparse=60).fit(silicon[0], optimize="loo", calibrate=False)


def test_mislabelled_frames_head_the_list(fitted, silicon):
    data, wrong = silicon
    found = fitted.suspicious(data)
    assert {s.index for s in found[:5]} == set(wrong)
    for suspect in found[:5]:
        assert suspect.quantity in wrong[suspect.index]
        assert suspect.left_out
    assert len(found) == sum(not f.is_isolated_atom for f in data)
    flagged = found.flagged
    assert 4 <= len(flagged) <= 7
    text = str(found)
    assert all(data[s.index].name in text for s in flagged)


def test_other_data_are_compared_with_the_prediction(fitted):
    clean = load_silicon("test")
    data, wrong = planted(clean)
    found = fitted.suspicious(data)
    assert not any(s.left_out for s in found)
    assert {s.index for s in found[:3]} <= set(wrong)
    k = found[0].index
    energy = next(s for s in found.details if s.index == k and s.quantity == "energy")
    predicted = fitted.predict(data[k].atoms)
    assert energy.error == pytest.approx((data[k].energy - predicted.energy) / len(data[k]))


def test_a_swapped_species_is_found():
    frames = list(load_ethanol("train"))[:60]
    swapped = frames[15].atoms.copy()
    carbon, hydrogen = (int(np.flatnonzero(swapped.numbers == z)[0]) for z in (6, 1))
    swapped.numbers[[carbon, hydrogen]] = 1, 6
    frames[15] = kp.Frame(**{**vars_of(frames[15]), "atoms": swapped})
    # delta: about the rms binding energy per atom, as the defaults choose it
    term = kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, sigma_atom=0.4, delta=4.0, n_sparse=150)
    data = kp.Dataset(frames)
    found = kp.KernelPotential([term]).fit(data, optimize="loo", calibrate=False).suspicious(data)
    assert found[0].index == 15


def test_plain_data(fitted, silicon):
    found = fitted.suspicious(silicon[0])
    first = found.to_dict()[0]
    assert first["index"] == found[0].index
    assert set(first) >= {"name", "quantity", "error", "score"}


def test_data_without_labels_are_refused(fitted):
    frame = load_silicon("test")[0]
    bare = kp.Frame(frame.atoms, None, None, None)
    with pytest.raises(ValueError, match="no labelled structures"):
        fitted.suspicious(kp.Dataset([bare]))


def test_a_species_that_one_structure_alone_has_heads_the_list():
    data = load_silicon("train")[:40]
    frames = list(data)
    index = max(range(len(frames)), key=lambda k: len(frames[k]))
    atoms = frames[index].atoms.copy()
    atoms.numbers[1] = 32
    frames[index] = kp.Frame(**{**vars_of(frames[index]), "atoms": atoms})
    swapped = kp.Dataset(frames)
    pot = kp.KernelPotential(n_sparse=40, baseline=kp.Wall())
    found = pot.fit(swapped, optimize=None, calibrate=False).suspicious(swapped)
    assert (found[0].index, found[0].quantity, found[0].atom) == (index, "species", 1)
    assert found[0].describe() == "no other structure has the species of atom 1"
    assert found[0] in found.flagged
    assert found.to_dict()[0]["score"] == sum(not f.is_isolated_atom for f in swapped) - 1
    # only some of the structures that were fitted
    some = kp.Dataset(
        [frames[index], *[f for f in frames if len(f) > 1 and f is not frames[index]][:20]]
    )
    assert all(s.quantity != "species" for s in pot.suspicious(some))
