"""What all tests share, the examples of docstrings included."""

import os

import pytest

# Tests must not depend on how busy the machine is.
os.environ.setdefault("KERNELPOT_NUM_THREADS", "2")


@pytest.fixture(autouse=True)
def _examples_write_elsewhere(request):
    """Run the examples of docstrings in a folder of their own."""
    if isinstance(request.node, pytest.DoctestItem):
        folder = request.getfixturevalue("tmp_path")
        request.getfixturevalue("monkeypatch").chdir(folder)
