"""Time and peak memory of the shipped silicon, commit by commit.

cd benchmarks && asv run --quick --dry-run --python=same
"""

from functools import lru_cache

from kernelpot import KernelPotential
from kernelpot.datasets import load_silicon


@lru_cache(maxsize=1)
def small_potential():
    """Fit few sparse points, in well under a minute."""
    return KernelPotential(n_sparse=100).fit(load_silicon()[:20], n_threads=1)


class Predict:
    """Energy, forces and stress of 512 rattled atoms; one thread."""

    timeout = 300

    def setup(self):
        from ase.build import bulk

        self.potential = small_potential()
        self.atoms = bulk("Si", cubic=True).repeat(4)
        self.atoms.rattle(0.05, seed=1)
        self.potential.predict(self.atoms, n_threads=1)  # load compiled code

    def time_512_atoms(self):
        self.potential.predict(self.atoms, n_threads=1)

    def peakmem_512_atoms(self):
        self.potential.predict(self.atoms, n_threads=1)


class Fit:
    """A small fit: 20 structures, 100 points in each of two terms; one thread."""

    timeout = 300

    def setup(self):
        self.train = load_silicon()[:20]
        small_potential()  # load compiled code

    def time_small(self):
        KernelPotential(n_sparse=100).fit(self.train, n_threads=1)

    def peakmem_small(self):
        KernelPotential(n_sparse=100).fit(self.train, n_threads=1)


def timeraw_import():
    """What `import kernelpot` costs in a fresh process."""
    return "import kernelpot"
