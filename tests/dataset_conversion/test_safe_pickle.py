"""Pickles of arrays are read whatever wrote them; everything else is refused and never run."""

import os
import pickle

import numpy as np
import pytest

from autoreg.dataset_conversion.safe_pickle import read_arrays
from autoreg.errors import DataError


def dump(path, content, protocol=pickle.HIGHEST_PROTOCOL):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def sample():
    random = np.random.default_rng(2)
    return random.random((3, 4, 5)).astype(np.float32), random.integers(0, 255, (3, 4, 5))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(tmp_path, protocol):
    expected = sample()
    found = read_arrays(dump(tmp_path / "a.pkl", expected, protocol))
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, other)
        assert array.dtype == other.dtype
        assert array.flags.writeable


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", [">i2", "<f8", "u1", "?", "f2"])
def test_types_orders_and_strides_survive(tmp_path, protocol, kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    content = [array, np.asfortranarray(array), array[:, ::2, 1:]]
    found = read_arrays(dump(tmp_path / "a.pkl", content, protocol))
    for one, other in zip(found, content, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("protocol", range(6))
def test_files_of_numpy_1_are_read(tmp_path, protocol):
    """numpy 1 calls its module numpy.core; published files are of its time."""
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = pickle.dumps((expected,), protocol)
    if protocol >= 4:  # without the frame, whose length would change
        content = content[:2] + content[11:]
    for module in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = module.replace(b"_core", b"core")
        content = content.replace(bytes([len(module)]) + module, bytes([len(old)]) + old)
        content = content.replace(module, old)
    assert b"numpy.core" in content
    assert b"numpy._core" not in content
    path = tmp_path / "subject_0.pkl"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_arrays(path)[0], expected)


def test_files_of_python_2_are_read(tmp_path):
    """Its bytes are a text here: SHORT_BINSTRING, written by hand as no Python 3 writes it."""
    array = np.array([[1, -2, 300]], dtype="<i2")
    data = array.tobytes()
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x03\x86cnumpy\ndtype\nU\x02i2K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U" + bytes([len(data)]) + data + b"tb."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_arrays(path)[0], array)


class Malice:
    """Pickles into a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def make_folder(path):
    """What a malicious file would do: leaves a trace."""
    return Malice(os.mkdir, str(path))


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_and_not_made(tmp_path, protocol):
    trace = tmp_path / "trace"
    array = np.zeros(3)
    for content in ((array, make_folder(trace)), make_folder(trace), [{"a": make_folder(trace)}]):
        path = dump(tmp_path / "subject_1.pkl", content, protocol)
        with pytest.raises(DataError, match=r"subject_1\.pkl: refused: .*mkdir"):
            read_arrays(path)
        assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (b"builtins\neval", b"X\x05\x00\x00\x001 + 1\x85"),
        (b"numpy\nload", b"X\x01\x00\x00\x00a\x85"),
        (b"numpy\nndarray", b"K\x08\x85"),
        (b"numpy.core.multiarray\nscalar", b")"),
        (b"numpy\ndtype.newbyteorder", b")"),
        (b"autoreg.dataset_conversion.safe_pickle\n_Array", b")"),
    ],
)
def test_other_names_are_refused(tmp_path, name, arguments):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02c" + name + b"\n" + arguments + b"R.")
    with pytest.raises(DataError, match="refused"):
        read_arrays(path)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a"], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i2")]),
        np.array(["text"]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype=complex),
    ],
    ids=["objects", "records", "texts", "dates", "complex"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array, protocol):
    with pytest.raises(DataError, match="refused"):
        read_arrays(dump(tmp_path / "a.pkl", (array,), protocol))


def test_numbers_cannot_be_passed_off_as_addresses(tmp_path):
    """An object type whose flags say that it is a plain one: numpy itself would believe it."""

    class Typed:
        def __reduce__(self):
            return (np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))

    class Forged:
        def __reduce__(self):
            start = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
            return (*start, (1, (2,), Typed(), False, bytes(16)))

    with pytest.raises(DataError, match=r"refused: .* type 'O8'"):
        read_arrays(dump(tmp_path / "a.pkl", Forged(), 4))


def test_a_plain_type_cannot_turn_into_records(tmp_path):
    class Typed:
        def __reduce__(self):
            fields = {"a": (np.dtype("i2"), 0)}
            return (np.dtype, ("f4", False, True), (3, "<", None, ("a",), fields, 4, 1, 16))

    class Forged:
        def __reduce__(self):
            start = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
            return (*start, (1, (2,), Typed(), False, bytes(8)))

    with pytest.raises(DataError, match="refused: this pickle holds an array of records"):
        read_arrays(dump(tmp_path / "a.pkl", Forged(), 4))


def test_a_builder_cannot_be_changed(tmp_path):
    """BUILD on a function would set its attributes, for every file that is read later."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(DataError, match="changes a function"):
        read_arrays(path)


def test_a_persistent_reference_is_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"Pelsewhere\n.")
    with pytest.raises(DataError, match="outside of the file"):
        read_arrays(path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_half_a_file_is_told(tmp_path, protocol, share):
    path = dump(tmp_path / "half.pkl", sample(), protocol)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"half\.pkl: not a complete pickle .*fetch the file again"):
        read_arrays(path)


def test_a_wrong_shape_is_told(tmp_path):
    class Forged:
        def __reduce__(self):
            start = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
            return (*start, (1, (1000, 1000), np.dtype("f4"), False, bytes(16)))

    with pytest.raises(DataError, match="16 bytes for an array of the shape"):
        read_arrays(dump(tmp_path / "a.pkl", Forged(), 4))


@pytest.mark.parametrize("content", [{"a": 1}, "text", (np.zeros(2), 3), [], None])
def test_other_contents_are_told(tmp_path, content):
    with pytest.raises(DataError, match="expected numpy arrays"):
        read_arrays(dump(tmp_path / "a.pkl", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pkl: no such file"):
        read_arrays(tmp_path / "absent.pkl")
