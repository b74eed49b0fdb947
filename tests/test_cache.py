"""Where compiled loops are kept."""

import os
import subprocess
import sys
import tempfile

from kernelpot._cache import fallback


def test_a_directory_that_can_be_made_is_enough(tmp_path):
    assert fallback([str(tmp_path / "new" / "deep")]) is None
    (tmp_path / "file").touch()
    assert fallback([str(tmp_path / "file" / "cache"), str(tmp_path)]) is None


def test_a_temporary_directory_serves_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = fallback([str(tmp_path / "file" / "a"), str(tmp_path / "file" / "b")])
    assert found is not None
    assert os.path.dirname(found) == tempfile.gettempdir()


def test_a_place_the_user_names_is_left_alone(tmp_path):
    code = "import kernelpot._kernel, numba; print(numba.config.CACHE_DIR)"
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path)
