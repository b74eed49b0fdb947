"""Streaming labels into factors: parts, trees, several processes."""

import dataclasses
import signal

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.fit import accumulation
from kernelpot.fit.accumulation import FactorTree, Labels, accumulate
from kernelpot.fit.pipeline import select
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.regression import _lapack

# so small that the data of the tests make many batches and parts
BATCH_BYTES = 2e4
# Windows has one way to end a process, and calls it by the other name
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


@pytest.fixture(scope="module")
def labels(labelled):
    terms = [kp.SOAPTerm(r_cut=3.8, n_max=3, l_max=2, n_sparse=40)]
    settings = Settings(terms=terms, config_type_sigma={"cluster": {"forces": 0.2}})
    problem = prepare(kp.read_dataset(labelled), settings)
    design = select(problem, settings).design
    return Labels(design, problem.frames, problem.noise)


@pytest.fixture(autouse=True)
def narrow_branches(monkeypatch):
    monkeypatch.setattr(accumulation, "BRANCH", 2)
    monkeypatch.setattr("kernelpot.fit.cluster.BRANCH", 2)
    monkeypatch.setattr(accumulation, "ROWS_PER_COLUMN", 2)


def everything(grouped, noise):
    """Every number of the grouped factor, in one array."""
    found = [grouped.posterior(noise.sigma).matrix[np.triu_indices(grouped.n_features + 1)]]
    found += [np.triu(triangle.matrix).ravel() for triangle in grouped.triangles.values()]
    found += [rows.ravel() for rows in grouped.rows.values()]
    return np.concatenate(found)


def test_rows_are_annihilated_as_by_scipy(rng):
    from scipy.linalg.lapack import dtpqrt

    upper = np.asfortranarray(np.triu(rng.normal(size=(9, 9))))
    rows = np.asfortranarray(rng.normal(size=(14, 9)))
    expected = dtpqrt(0, 4, upper, rows)[0]
    lower = np.tril_indices(9, -1)
    upper[lower] = 7.0  # neither read nor written
    _lapack.dtpqrt(upper, rows.copy("F"), 4)
    np.testing.assert_array_equal(np.triu(upper), np.triu(expected))
    assert (upper[lower] == 7.0).all()


def test_parts_are_runs_of_all_frames_with_rows_enough(labels):
    parts = labels.parts(BATCH_BYTES)
    assert len(parts) > 4
    assert [i for part in parts for batch in part for i in batch] == list(range(len(labels.frames)))
    for part in parts[:-1]:
        n_rows = sum(7 + 3 * len(labels.frames[i]) for batch in part for i in batch)
        assert n_rows >= 2 * labels.design.n_columns


def test_a_batch_is_bounded_in_atoms_where_columns_are_few(labels, monkeypatch):
    monkeypatch.setattr(accumulation, "BATCH_ATOMS", 20)
    found = [batch for part in labels.parts() for batch in part]
    sizes = [sum(len(labels.frames[i]) for i in batch) for batch in found]
    assert max(sizes) <= 20
    assert np.mean(sizes[:-1]) > 12
    assert [i for batch in found for i in batch] == list(range(len(labels.frames)))


def test_the_tree_holds_the_rows_of_all_frames(labels):
    # oracle: one dense QR of all rows and the prior
    labels = dataclasses.replace(labels, continued=True)  # no prior beside the unit one
    grouped = accumulate(labels, batch_bytes=BATCH_BYTES)
    posterior = grouped.posterior(labels.noise.sigma)
    built = labels.rows(list(range(len(labels.frames))))
    n = labels.design.n_columns
    stacked = [np.eye(n, n + 1)]
    for group, phi, y in built.by_group():
        stacked.append(np.column_stack([phi, y]) / labels.noise.sigma(group))
    R = np.linalg.qr(np.concatenate(stacked), mode="r")
    R *= np.sign(np.diag(R))[:, None]
    found = np.triu(posterior.matrix) * np.sign(np.diag(posterior.matrix))[:, None]
    np.testing.assert_allclose(found, R, atol=1e-9 * np.abs(R).max())
    assert grouped.n_rows == sum(frame.n_rows for frame in labels.frames)


def test_rows_apart_are_those_of_one_frame_to_the_bit(labels):
    chosen = [1, 4, 5, len(labels.frames) - 1]
    some = dataclasses.replace(labels, apart=frozenset(chosen))
    kept = {}
    grouped = accumulate(some, batch_bytes=BATCH_BYTES, kept=kept)
    assert sorted(kept) == chosen
    for index, rows in kept.items():
        alone = labels.design.structure_rows(index, labels.frames[index], labels.noise)
        for name, value in vars(alone).items():
            np.testing.assert_array_equal(getattr(rows, name), value)
    # and they are in the factor as the others are
    whole = accumulate(labels, batch_bytes=BATCH_BYTES)
    R, expected = (g.posterior(labels.noise.sigma).R for g in (grouped, whole))
    tolerance = 1e-9 * np.abs(expected).max() ** 2  # products, as signs of rows are free
    np.testing.assert_allclose(R.T @ R, expected.T @ expected, atol=tolerance)
    assert grouped.n_rows == whole.n_rows


def test_some_of_the_labels_keep_what_is_apart(labels):
    some = dataclasses.replace(labels, apart=frozenset([1, 4])).take([4, 2, 1])
    assert some.apart == {0, 2}


def test_threads_change_no_bit(labels):
    one = accumulate(labels, batch_bytes=BATCH_BYTES, n_threads=1)
    three = accumulate(labels, batch_bytes=BATCH_BYTES, n_threads=3)
    np.testing.assert_array_equal(everything(one, labels.noise), everything(three, labels.noise))


def test_progress_follows_the_work(labels):
    seen = []
    accumulate(
        labels,
        batch_bytes=BATCH_BYTES,
        progress=lambda stage, done, total: seen.append(done / total),
    )
    assert len(seen) == sum(map(len, labels.parts(BATCH_BYTES)))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    # eight atoms have more neighbors and rows than four, and count for more
    large = max(labels.frames, key=len)
    small = min((f for f in labels.frames if f.config_type == "bulk"), key=len)
    ends = [labels.frames.index(large), labels.frames.index(small)]
    assert labels.work(ends[:1]) > 1.5 * labels.work(ends[1:])


def test_a_continued_stream_changes_no_bit(labels):
    import copy

    states = []
    whole = accumulate(
        labels, batch_bytes=BATCH_BYTES, after_batch=lambda tree: states.append(copy.deepcopy(tree))
    )
    for tree in states[:: len(states) // 3]:
        again = accumulate(labels, batch_bytes=BATCH_BYTES, tree=tree)
        np.testing.assert_array_equal(
            everything(whole, labels.noise), everything(again, labels.noise)
        )
    assert isinstance(states[0], FactorTree)


# ---- several processes -------------------------------------------------------------


# A machine that was suspended wakes to workers that seem dead for as long: nobody minds. Dead
# ones are known by their closed connections all the same.
PATIENT = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.connect": "1 day",
    "distributed.comm.timeouts.tcp": "1 day",
    "distributed.deploy.lost-worker-timeout": "1 day",
}


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs the extra kernelpot[dask]")
    import dask

    with (
        dask.config.set(PATIENT),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_cluster_gives_the_factor_of_one_process_though_a_worker_is_killed(
    labels, cluster, monkeypatch
):
    from kernelpot.fit.cluster import accumulate_on

    alone = accumulate(labels, batch_bytes=BATCH_BYTES)
    pids = cluster.run(lambda: __import__("os").getpid())
    seen = []

    def progress(stage, done, total):
        if not seen:
            import os

            os.kill(next(iter(pids.values())), KILL)
        seen.append(done / total)

    together = accumulate_on(cluster, labels, batch_bytes=BATCH_BYTES, progress=progress)
    np.testing.assert_array_equal(
        everything(alone, labels.noise), everything(together, labels.noise)
    )
    assert seen[-1] == pytest.approx(1.0)
    cluster.wait_for_workers(1, timeout=86400)
    assert set(cluster.run(lambda: __import__("os").getpid()).values()) != set(pids.values())


def test_a_whole_fit_on_a_cluster_is_the_fit_of_one_process(labelled, cluster):
    term = kp.SOAPTerm(r_cut=3.8, n_max=3, l_max=2, n_sparse=40)
    alone = kp.KernelPotential([term]).fit(labelled)
    together = kp.KernelPotential([term]).fit(labelled, client=cluster)
    np.testing.assert_array_equal(alone.fitted_.local.weights, together.fitted_.local.weights)
    with pytest.raises(ValueError, match="leave one of the two out"):
        kp.KernelPotential([term]).fit(labelled, client=cluster, checkpoint="state")
