"""Archives of matrices: what stands in them is data, and never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from blsp.base.files import InputError
from blsp.data import mel
from blsp.data.archives import Archives, read_matrix
from blsp.data.states import read_states


class Trap:
    """Touches a file where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_matrices_are_read_back_from_where_the_table_says(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for done, how, dtype in (("a", {}, np.float32), ("b", {"write_function": "numpy"}, np.float16)):
        matrices = {f"u{i}": random.normal(size=(i + 1, 3)).astype(dtype) for i in range(5)}
        archives = Archives(tmp_path, "some", done, 2)
        for number, names in enumerate((("u0", "u3"), ("u1", "u2", "u4"))):
            assert not archives.publish("lengths", {})
            archives.write(number, ((n, matrices[n], str(len(matrices[n]))) for n in names), **how)
        assert not archives.is_published()
        assert archives.publish("lengths", {}) and archives.is_published()
        assert (tmp_path / "lengths").read_text() == "u0 1\nu1 2\nu2 3\nu3 4\nu4 5\n"
        places = dict(line.split(" ") for line in (tmp_path / "some.scp").read_text().splitlines())
        for name, matrix in matrices.items():
            read = read_matrix(places[name], "numbers")
            assert read.dtype == dtype and np.array_equal(read, matrix)


def test_no_command_and_no_pickle_of_a_table_or_an_archive_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    ark = tmp_path / "a.ark"
    with open(ark, "wb") as f:
        f.write(b"u PKL" + pickle.dumps(Trap(trace)))
        array = f.tell()
        kaldiio.save_ark(f, {"v": np.array([Trap(trace)], dtype=object)}, write_function="numpy")
    for place in (f"touch {trace} |", f"touch {trace} |:0", f"| touch {trace}", "-", f"{ark}:2", f"{ark}:{array + 2}"):
        for read in (mel.read_features, lambda place: read_states(place, "1")):
            with pytest.raises(InputError, match="run stage 1 again") as e:
                read(place)
            assert "\n" not in str(e.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "place", ["", "nowhere", ":", "{ark}", "{ark}:", "{ark}:x", "{ark}:-1", "{ark}:1", "{ark}:9999", "{ark}.no:2"]
)
def test_a_place_without_a_matrix_is_named_in_one_line(tmp_path: Path, place: str) -> None:
    ark = tmp_path / "a.ark"
    kaldiio.save_ark(str(ark), {"u": np.zeros((2, 3), dtype=np.float32)})
    with pytest.raises(InputError, match="numbers cannot be read") as e:
        read_matrix(place.format(ark=ark), "numbers")
    assert "\n" not in str(e.value)


def test_states_of_another_number_or_type_are_refused(tmp_path: Path) -> None:
    ark = tmp_path / "a.ark"
    for array, lengths in (
        (np.zeros((5, 3), np.float16), "2 2"),
        (np.zeros((5, 3), np.float32), "5"),
        (np.zeros(5, np.float16), "5"),
    ):
        kaldiio.save_ark(str(ark), {"u": array}, write_function="numpy")
        with pytest.raises(InputError, match="run stage 1 again"):
            read_states(f"{ark}:2", lengths)
