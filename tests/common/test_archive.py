"""What a model file may hold."""

import numpy as np
import pytest

from kernelpot.common import archive


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "empty": np.zeros(0, dtype=np.int64)}
    archive.write(tmp_path / "file", {"say": "hello"}, arrays)
    header, found = archive.read(tmp_path / "file")
    assert header["say"] == "hello"
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_python_objects_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="array 'a' holds Python objects"):
        archive.write(tmp_path / "file", {}, {"a": np.array([None])})
    assert list(tmp_path.iterdir()) == []
