"""Structures that the choice of sparse points does not see."""

import numpy as np

from kernelpot.fit.hold_out import REST, hold_out

SILICON, CARBON = [14, 14], [6, 6]


def test_a_tenth_of_every_config_type_is_held_out():
    frames = [("bulk", SILICON)] * 25 + [("rare", SILICON)] * 5 + [("atom", [14])] * 20
    assert hold_out(frames) == [5, 15]
    # the only structures with a species are needed for its sparse points
    frames[5] = ("bulk", [14, 8])
    assert 5 not in hold_out(frames)


def test_config_types_have_a_tenth_each():
    frames = [("a", SILICON), ("b", SILICON)] * 20
    chosen = hold_out(frames)
    assert [i for i in chosen if i % 2 == 0] == [10, 30]
    assert [i for i in chosen if i % 2 == 1] == [11, 31]


def test_compositions_have_a_tenth_each_whatever_their_order():
    frames = [("bulk", [14, 6, 6]), ("bulk", [6, 6, 6])] * 20
    frames[0::4] = [("bulk", [6, 14, 6])] * 10  # the same composition
    chosen = hold_out(frames)
    assert [i for i in chosen if i % 2 == 0] == [10, 30]
    assert [i for i in chosen if i % 2 == 1] == [11, 31]


def test_a_structure_alone_of_its_composition_is_not_held_out():
    frames = [("bulk", SILICON)] * 40
    for place in (5, 15, 25):
        alone = list(frames)
        alone[place] = ("bulk", [14, 14, 14])
        chosen = hold_out(alone)
        assert place not in chosen
        assert len(chosen) in (3, 4)


def test_of_a_few_structures_of_a_composition_none_is_held_out():
    frames = [("bulk", [14] * (2 + k % 5)) for k in range(45)]  # nine of each of five
    assert hold_out(frames) == []


def test_rare_compositions_are_held_out_where_together_there_are_many():
    """Molecules of a chemical space, no two alike."""
    alone = [("molecules", [14] * (2 + k)) for k in range(10 * REST)]
    assert hold_out(alone[:-1]) == []
    chosen = hold_out(alone)
    assert chosen == list(range(5, 10 * REST, 10))
    # those of a frequent composition beside them count on their own
    both = [*alone, *[("molecules", CARBON)] * 30]
    assert hold_out(both) == [*chosen, 55, 65, 75]


def test_rare_compositions_of_different_config_types_do_not_count_together():
    frames = [(f"type {k % 2}", [14] * (2 + k)) for k in range(10 * REST)]
    assert hold_out(frames) == []


def test_isolated_atoms_are_never_held_out():
    frames = [("atoms", [14])] * 100 + [("bulk", SILICON)] * 10
    assert hold_out(frames) == [105]


def test_no_species_is_held_out_as_a_whole():
    rng = np.random.default_rng(4)
    for _ in range(200):
        n = int(rng.integers(1, 120))
        frames = [
            (str(rng.integers(3)), rng.choice([1, 6, 8], int(rng.integers(1, 4))).tolist())
            for _ in range(n)
        ]
        if rng.random() < 0.5:
            frames[int(rng.integers(n))] = ("0", [92, 92])
        chosen = hold_out(frames)
        assert chosen == sorted(set(chosen))
        kept = {z for i, (_, numbers) in enumerate(frames) if i not in chosen for z in numbers}
        assert kept == {z for _, numbers in frames for z in numbers}
        assert len(chosen) <= 0.15 * n + 1
        assert all(len(frames[i][1]) > 1 for i in chosen)


def test_another_share_may_be_asked_for():
    frames = [("bulk", SILICON)] * 20
    assert hold_out(frames, 0.2) == [2, 7, 12, 17]
    assert hold_out(frames[:4], 0.2) == []
