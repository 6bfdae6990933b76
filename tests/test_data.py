"""Sources of data larger than memory: what their blocks hold, what they cost, what they refuse."""

import io
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import ranvier as rv
from parquet_writer import write_parquet
from ranvier._text import _survey


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def parquet_file(path, columns, **options):
    parquet.write_table(pa.table(columns), path, **options)
    return path


def csv_file(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def together(source):
    """All blocks, one after the other."""
    return [np.concatenate(arrays) for arrays in zip(*source, strict=True)]


def refused(kind, words, function, *args, **options):
    """The message of a refusal of this very class."""
    with pytest.raises(rv.RanvierError, match=words) as caught:
        function(*args, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message) < 1000
    return message


# ---------------------------------------------------------------- what both promise

FRAME = pd.DataFrame(
    {
        "a": np.arange(10) / 4,
        "b": np.arange(10)[::-1] / 2,
        "label": np.arange(10) % 3,
        "w": np.arange(10) + 0.5,
    }
)


def write(kind, path, frame=FRAME):
    """A file of the frame and options that make several blocks of it."""
    if kind is rv.data.Parquet:
        frame.to_parquet(path, row_group_size=3, index=False)
        return {}
    path.write_text(frame.to_csv(index=False))
    return {"block_bytes": 40}


KINDS = pytest.mark.parametrize("kind", [rv.data.Parquet, rv.data.CSV])


@KINDS
def test_blocks_are_features_target_and_weight_in_the_order_of_the_file(kind, tmp_path):
    options = write(kind, tmp_path / "file")
    source = kind(tmp_path / "file", target="label", weight="w", **options)
    assert len(source) > 2
    assert source.features == ("a", "b")
    assert (source.target, source.weight) == ("label", "w")
    assert source.paths == (str(tmp_path / "file"),)
    X, y, weight = together(source)
    np.testing.assert_array_equal(X, FRAME[["a", "b"]])
    np.testing.assert_array_equal(y, FRAME["label"])
    np.testing.assert_array_equal(weight, FRAME["w"])
    assert (X.dtype, y.dtype, weight.dtype) == (np.float64, np.int64, np.float64)
    for block in source:
        assert block[0].flags.c_contiguous
    assert len(kind(tmp_path / "file", target="label", **options)[0]) == 2


@KINDS
def test_columns_come_as_they_are_named(kind, tmp_path):
    options = write(kind, tmp_path / "file")
    source = kind(tmp_path / "file", target=["label", "a"], features=["w", "b"], **options)
    X, y = together(source)
    np.testing.assert_array_equal(X, FRAME[["w", "b"]])
    np.testing.assert_array_equal(y, FRAME[["label", "a"]])
    assert source.target == ("label", "a")
    one = kind(tmp_path / "file", target=["label"], **options)
    assert one[0][1].shape == (len(one[0][0]), 1)
    assert together(one)[1].dtype == np.int64


@KINDS
def test_blocks_of_several_files_follow_each_other(kind, tmp_path):
    paths = [tmp_path / f"{number}" for number in range(3)]
    parts = [FRAME[:4], FRAME[4:5], FRAME[5:]]
    for path, part in zip(paths, parts, strict=True):
        options = write(kind, path, part)
    source = kind(paths, target="label", **options)
    assert len(source) == sum(len(kind(path, target="label", **options)) for path in paths)
    np.testing.assert_array_equal(together(source)[0], FRAME[["a", "b", "w"]])
    # Another order of columns is the same data.
    write(kind, paths[1], parts[1][["w", "label", "b", "a"]])
    source = kind(paths, target="label", **options)
    np.testing.assert_array_equal(together(source)[0], FRAME[["a", "b", "w"]])


@KINDS
def test_a_source_is_a_sequence(kind, tmp_path):
    options = write(kind, tmp_path / "file")
    source = kind(str(tmp_path / "file"), target="label", **options)
    last = len(source) - 1
    np.testing.assert_array_equal(source[-1][0], source[last][0])
    np.testing.assert_array_equal(source[np.int64(1)][0], source[1][0])
    assert sum(len(X) for X, _ in source) == len(FRAME)
    for index in (len(source), -len(source) - 1):
        with pytest.raises(IndexError, match=f"{len(source)} blocks"):
            source[index]
    for index in (slice(2), 1.0, "1", None):
        refused(rv.DTypeError, "index: .*one by one", source.__getitem__, index)


@KINDS
def test_a_source_shows_the_call_that_makes_it(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = write(kind, tmp_path / "file")
    source = kind("file", target="label", features=["a"], weight="w", **options)
    again = eval(repr(source), {"Parquet": rv.data.Parquet, "CSV": rv.data.CSV})
    assert repr(again) == repr(source)
    assert len(again) == len(source)
    many = kind(["file"] * 1000, target=["label"], **options)
    assert len(repr(many)) < 200


@KINDS
def test_a_source_can_be_pickled(kind, tmp_path):
    options = write(kind, tmp_path / "file")
    source = kind(tmp_path / "file", target="label", weight="w", **options)
    text = pickle.dumps(source)
    assert len(text) < 2000
    again = pickle.loads(text)
    assert repr(again) == repr(source)
    for got, expected in zip(together(again), together(source), strict=True):
        np.testing.assert_array_equal(got, expected)


@KINDS
def test_threads_read_blocks_at_the_same_time(kind, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(3000, 5)), columns=list("abcde"))
    if kind is rv.data.Parquet:
        frame.to_parquet(tmp_path / "file", row_group_size=101)
        source = kind(tmp_path / "file", target="e")
    else:
        frame.to_csv(tmp_path / "file", index=False)
        source = kind(tmp_path / "file", target="e", block_bytes=10_000)
    order = np.tile(rng.permutation(len(source)), 4)
    expected = list(source)
    with ThreadPoolExecutor(8) as pool:
        for index, (X, y) in zip(order, pool.map(source.__getitem__, order), strict=True):
            np.testing.assert_array_equal(X, expected[index][0])
            np.testing.assert_array_equal(y, expected[index][1])


@KINDS
def test_a_missing_feature_is_nan(kind, tmp_path):
    frame = FRAME.assign(b=[None, *FRAME["b"][1:]], count=pd.array([1, None, *range(8)], "Int64"))
    options = write(kind, tmp_path / "file", frame)
    X, _ = together(kind(tmp_path / "file", target="label", **options))
    np.testing.assert_array_equal(X, frame.drop(columns="label").to_numpy(float, na_value=np.nan))


@KINDS
def test_a_missing_label_is_refused_with_its_place(kind, tmp_path):
    frame = FRAME.assign(label=pd.array([0, 1, 2, 0, None, 2, 0, 1, 2, 0], "Int64"))
    options = write(kind, tmp_path / "file", frame)
    source = kind(tmp_path / "file", target="label", **options)
    place = "row 1 of row group 1" if kind is rv.data.Parquet else "line 6: "
    message = refused(rv.FileFormatError, "'label'", list, source)
    assert place in message
    assert message.startswith(source.paths[0])


@KINDS
def test_a_missing_floating_target_or_weight_is_nan(kind, tmp_path):
    frame = FRAME.assign(w=[np.nan, *FRAME["w"][1:]], a=[*FRAME["a"][:9], np.nan])
    options = write(kind, tmp_path / "file", frame)
    _, y, weight = together(kind(tmp_path / "file", target="a", weight="w", **options))
    np.testing.assert_array_equal(y, frame["a"])
    np.testing.assert_array_equal(weight, frame["w"])


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_delimiter_is_named(tmp_path, mark):
    (tmp_path / "t.csv").write_text(f"a{mark}b\n1{mark}2\n")
    with pytest.raises(rv.ArgumentError, match=re.escape(f"; pass delimiter={mark!r}")):
        rv.data.CSV(tmp_path / "t.csv", target="b")
    assert len(rv.data.CSV(tmp_path / "t.csv", target="b", delimiter=mark)) == 1


@KINDS
@pytest.mark.parametrize(
    ("options", "kind_of_error", "words"),
    [
        ({"paths": []}, rv.ArgumentError, "paths: .*at least one"),
        ({"paths": 3}, rv.DTypeError, "paths: .*got 3"),
        ({"paths": b"file"}, rv.DTypeError, "paths: .*got b'file'"),
        ({"paths": ["file", None]}, rv.DTypeError, "paths: .*got None"),
        ({"paths": "fi\0le"}, rv.ArgumentError, "paths: .*null"),
        ({"target": "lable"}, rv.ArgumentError, "target: .*'a', .*'lable'; did you mean 'label'"),
        ({"target": []}, rv.ArgumentError, "target: .*at least one"),
        ({"target": 3}, rv.DTypeError, "target: .*got 3"),
        ({"target": ["label", 3]}, rv.DTypeError, "target: .*got 3"),
        ({"target": ["label", "label"]}, rv.ArgumentError, "target: .*'label'.*already"),
        ({"features": "a"}, rv.DTypeError, r"features: .*got 'a'; one column is \['a'\]"),
        ({"features": []}, rv.ArgumentError, "features: .*at least one"),
        ({"features": ["a", "q"]}, rv.ArgumentError, "features: .*got 'q'"),
        ({"features": ["a", "a"]}, rv.ArgumentError, "features: .*'a'.*already"),
        ({"features": ["a", "label"]}, rv.ArgumentError, "features: .*'label'.*the target"),
        ({"features": ["w"], "weight": "w"}, rv.ArgumentError, "features: .*'w'.*the weight"),
        ({"weight": "label"}, rv.ArgumentError, "weight: .*'label'.*the target"),
        ({"weight": "wheight"}, rv.ArgumentError, "weight: .*got 'wheight'"),
        ({"weight": ["w"]}, rv.DTypeError, "weight: .*got"),
        ({"target": ["a", "b", "label"], "weight": "w"}, rv.ArgumentError, "features: .*none in"),
    ],
)
def test_wrong_arguments_are_refused(kind, options, kind_of_error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(kind, tmp_path / "file")
    options = {"paths": "file", "target": "label"} | options
    refused(kind_of_error, words, kind, options.pop("paths"), **options)


def test_many_columns_do_not_flood_a_message(tmp_path):
    columns = {f"column{number}" * 20: [1.0] for number in range(500)}
    path = parquet_file(tmp_path / "wide", columns)
    assert "492 more" in refused(rv.ArgumentError, "target", rv.data.Parquet, path, target="y")


@KINDS
def test_files_agree_on_their_columns(kind, tmp_path):
    paths = [tmp_path / "one", tmp_path / "two"]
    options = write(kind, paths[0])
    write(kind, paths[1], FRAME.drop(columns="b"))
    refused(rv.ArgumentError, "paths: .*two .*without 'b'", kind, paths, target="label", **options)
    write(kind, paths[1], FRAME.assign(c=1.0))
    refused(rv.ArgumentError, "paths: .*two with 'c'", kind, paths, target="label", **options)
    source = kind(paths, target="label", features=["a"], **options)
    assert len(together(source)[0]) == 2 * len(FRAME)


@KINDS
def test_the_systems_refusals_are_the_systems(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        kind(tmp_path / "nowhere", target="y")
    assert not isinstance(caught.value, rv.RanvierError)
    with pytest.raises(OSError, match=re.escape(tmp_path.name)) as caught:
        kind(tmp_path, target="y")
    assert not isinstance(caught.value, rv.RanvierError)
    # A pattern is a name like any other.
    options = write(kind, tmp_path / "part-[1]*")
    assert len(kind(str(tmp_path / "part-[1]*"), target="label", **options)) > 1


@KINDS
def test_files_without_rows_are_refused_and_passed_over_beside_others(kind, tmp_path):
    paths = [tmp_path / "none", tmp_path / "some", tmp_path / "nothing"]
    write(kind, paths[0], FRAME[:0])
    write(kind, paths[2], FRAME[:0])
    options = write(kind, paths[1])
    refused(rv.ArgumentError, "paths: .*one row", kind, paths[0], target="label", **options)
    if kind is rv.data.Parquet:
        empty = parquet.read_table(paths[0]).cast(parquet.read_schema(paths[1]))
        parquet.write_table(empty, paths[0])
        parquet.write_table(empty, paths[2])
    source = kind(paths, target="label", **options)
    assert len(source) == len(kind(paths[1], target="label", **options))
    np.testing.assert_array_equal(together(source)[1], FRAME["label"])


@KINDS
def test_without_pyarrow_the_message_says_how_to_install_it(kind, monkeypatch, tmp_path):
    options = write(kind, tmp_path / "file")
    source = kind(tmp_path / "file", target="label", **options)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = f"{kind.__name__} needs pyarrow: pip install 'ranvier\\[data\\]'"
    refused(rv.MissingDependencyError, words, kind, "nowhere", target="y")
    refused(rv.MissingDependencyError, words, source.__getitem__, 0)


def test_importing_ranvier_does_not_import_pyarrow():
    code = "import sys, ranvier; ranvier.data.CSV; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@KINDS
def test_reading_does_not_import_pandas(kind, tmp_path):
    """It would take 60 MB and half a second."""
    frame = FRAME.assign(flag=FRAME["a"] > 1, gap=[None, *FRAME["a"][1:]])
    options = write(
        kind, tmp_path / "file", frame.drop(columns="flag") if kind is rv.data.CSV else frame
    )
    code = (
        "import sys, ranvier; "
        f"list(ranvier.data.{kind.__name__}('file', target='label', weight='w', **{options})); "
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


PEAK = """
import sys
import numpy as np, pyarrow.parquet, pyarrow.csv, ranvier as rv

def kib(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

kind, path, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
before = kib("VmRSS")
source = getattr(rv.data, kind)(path, target="y", **options)
largest = 0
for X, y in source:
    largest = max(largest, X.nbytes)
    del X, y
print((kib("VmHWM") - before) / 1024, largest / 2**20)
"""


def peak(kind, path, options):
    """MiB that reading takes at most, and those of the largest block."""
    command = [sys.executable, "-c", PEAK, kind, str(path), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return map(float, done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_parquet_takes_the_memory_of_a_block_whatever_the_files_size(tmp_path):
    peaks = []
    for megabytes in (40, 160):
        write_parquet(tmp_path / "file", megabytes, features=100, group_rows=40_000)
        taken, block = peak("Parquet", tmp_path / "file", {})
        assert block == pytest.approx(15.26, abs=0.1)
        peaks.append(taken)
    # The package's own pages and what its allocator keeps are some 15 MiB.
    assert max(peaks) < 1.25 * block + 25
    assert abs(peaks[1] - peaks[0]) < 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_csv_takes_the_memory_of_a_block_and_its_text_whatever_the_files_size(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20_000, 21)).round(6)
    text = io.StringIO()
    pd.DataFrame(rows, columns=[*map(str, range(20)), "y"]).to_csv(text, index=False)
    header, _, body = text.getvalue().partition("\n")
    peaks = []
    for repeats in (10, 40):
        with (tmp_path / "file").open("w") as file:
            file.write(header + "\n")
            file.writelines(body for _ in range(repeats))
        taken, block = peak("CSV", tmp_path / "file", {"block_bytes": 8 << 20})
        peaks.append(taken)
    # The package's own pages and what its parser holds of its chunks are some 25 MiB.
    assert max(peaks) < block + 8 + 35
    assert abs(peaks[1] - peaks[0]) < 16


# ---------------------------------------------------------------- Parquet

NUMBERS = {
    "float64": st.floats(allow_nan=False),
    "float32": st.floats(width=32, allow_nan=False),
    "float16": st.floats(width=16, allow_nan=False),
    "int64": st.integers(-(2**53), 2**53),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int8": st.integers(-128, 127),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
}
NARROW = {"float32", "float16", "int16", "uint16", "int8", "uint8", "bool"}


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.sampled_from(list(NUMBERS)), min_size=1, max_size=20))
    columns = {}
    for number, kind in enumerate(kinds):
        entry = st.none() | NUMBERS[kind] if draw(st.booleans()) else NUMBERS[kind]
        values = draw(st.lists(entry, min_size=rows, max_size=rows))
        if kind == "float16":
            values = [None if value is None else np.float16(value) for value in values]
        arrow = {"float64": pa.float64, "float32": pa.float32, "float16": pa.float16}
        kind_of_arrow = arrow[kind]() if kind in arrow else pa.type_for_alias(kind)
        columns[f"x{number}"] = pa.array(values, kind_of_arrow)
    own = draw(st.sampled_from(list(NUMBERS)))
    plain = np.array(draw(st.lists(NUMBERS[own], min_size=rows, max_size=rows)), own)
    columns["y"] = pa.array(plain)
    return kinds, pa.table(columns), plain


@given(tables(), st.integers(1, 45), st.sampled_from(["none", "snappy", "zstd"]))
def test_any_row_groups_hold_the_table(folder, case, size, compression):
    kinds, table, y = case
    path = folder / "any.parquet"
    parquet.write_table(table, path, row_group_size=size, compression=compression)
    source = rv.data.Parquet(path, target="y")
    assert len(source) == -(-len(table) // size)
    X, target = together(source)
    expected = np.column_stack(
        [
            [np.nan if value is None else float(value) for value in column.to_pylist()]
            for column in table.columns[:-1]
        ]
    )
    assert X.dtype == (np.float32 if set(kinds) <= NARROW else np.float64)
    np.testing.assert_array_equal(X, expected)
    np.testing.assert_array_equal(target, y)
    assert target.dtype == (np.uint8 if y.dtype == bool else y.dtype)


def test_a_wide_table_is_spread_as_it_is(tmp_path):
    """More columns and rows than are spread together."""
    X = np.random.default_rng(0).normal(size=(5003, 131)).astype(np.float32)
    columns = {f"x{number}": column for number, column in enumerate(X.T)}
    path = parquet_file(tmp_path / "file", columns | {"y": X[:, 0]}, row_group_size=4999)
    source = rv.data.Parquet(path, target="y")
    assert [len(block[0]) for block in source] == [4999, 4]
    got, y = together(source)
    np.testing.assert_array_equal(got, X)
    np.testing.assert_array_equal(y, X[:, 0])
    assert got.dtype == y.dtype == np.float32


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["float32", "float32"], "float32"),
        (["int8", "int32"], "int32"),
        (["bool", "bool"], "uint8"),
        (["float32", "int8"], "float64"),
        (["int64", "float32", "bool"], "float64"),
    ],
)
def test_several_targets_have_a_common_type(types, expected, tmp_path):
    columns = {f"y{number}": np.array([0, 1], kind) for number, kind in enumerate(types)}
    path = parquet_file(tmp_path / "file", {"x": [0.5, 1.5]} | columns)
    _, y = rv.data.Parquet(path, target=list(columns))[0]
    assert y.dtype == expected
    np.testing.assert_array_equal(y, np.column_stack(list(columns.values())))


def test_only_the_chosen_columns_are_read(tmp_path, monkeypatch):
    columns = {name: np.random.default_rng(0).random(1000) for name in "abcdy"}
    path = parquet_file(tmp_path / "file", columns, compression="none", use_dictionary=False)
    seen = []
    read = parquet.ParquetFile.read_row_group

    def watch(self, *args, columns, **options):
        seen.extend(columns)
        return read(self, *args, columns=columns, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", watch)
    source = rv.data.Parquet(path, target="y", features=["d", "b"])
    assert seen == []
    source[0]
    assert sorted(seen) == ["b", "d", "y"]
    # Columns that are damaged, and not read, do no harm.
    metadata = parquet.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    begin = metadata.data_page_offset
    data[begin : begin + metadata.total_compressed_size] = bytes(metadata.total_compressed_size)
    path.write_bytes(data)
    np.testing.assert_array_equal(source[0][0], np.column_stack([columns["d"], columns["b"]]))
    refused(rv.FileFormatError, "fault", rv.data.Parquet(path, target="y").__getitem__, 0)


def test_the_index_of_pandas_is_no_feature(tmp_path):
    frame = FRAME.set_index(pd.Index(np.arange(10) ** 2, name="key"))
    frame.to_parquet(tmp_path / "file")
    assert rv.data.Parquet(tmp_path / "file", target="label").features == ("a", "b", "w")
    source = rv.data.Parquet(tmp_path / "file", target="label", features=["key"])
    np.testing.assert_array_equal(source[0][0][:, 0], frame.index)
    FRAME[::2].to_parquet(tmp_path / "file")
    assert rv.data.Parquet(tmp_path / "file", target="label").features == ("a", "b", "w")


def test_names_with_dots_are_names(tmp_path):
    path = parquet_file(tmp_path / "file", {"a.b": [1.0], "a": [2.0], "a.b.c": [3.0], "y": [4.0]})
    X, y = rv.data.Parquet(path, target="y")[0]
    np.testing.assert_array_equal(X, [[1.0, 2.0, 3.0]])
    assert rv.data.Parquet(path, target="a", features=["a.b.c"])[0][0] == 3.0
    assert y == 4.0


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", "b"]),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([1, 2], pa.decimal128(5, 2)),
        pa.array([[1.0], [2.0]]),
        pa.array([{"x": 1.0}, {"x": 2.0}]),
        pa.array([None, None]),
    ],
    ids=lambda values: str(values.type)[:10],
)
def test_columns_of_no_numbers_are_refused(values, tmp_path):
    path = parquet_file(tmp_path / "file", {"a": [1.0, 2.0], "t": values, "y": [1, 2]})
    message = refused(rv.DTypeError, "features: .*'t'", rv.data.Parquet, path, target="y")
    assert "leave it out" in message
    refused(rv.DTypeError, "target: .*'t'", rv.data.Parquet, path, target="t", features=["a"])
    source = rv.data.Parquet(path, target="y", features=["a"])
    np.testing.assert_array_equal(source[0][0], [[1.0], [2.0]])


def test_files_agree_on_their_types(tmp_path):
    one = parquet_file(tmp_path / "one", {"a": [1.0], "y": [1]})
    two = parquet_file(tmp_path / "two", {"a": [1.0], "y": [1.5]})
    words = "paths: .*'y' as double in .*two, as int64 in .*one"
    refused(rv.ArgumentError, words, rv.data.Parquet, [one, two], target="y")


def test_what_is_no_parquet_is_refused_with_its_path(tmp_path):
    path = parquet_file(tmp_path / "file", {"a": [1.0], "y": [1]})
    whole = path.read_bytes()
    source = rv.data.Parquet(path, target="y")
    for data in (b"", b"PAR1", b"a,y\n1,2\n" * 10, whole[:-1], whole[:-20], whole[:40]):
        path.write_bytes(data)
        message = refused(rv.FileFormatError, "Parquet", rv.data.Parquet, path, target="y")
        assert message.startswith(str(path))
        refused(rv.FileFormatError, "Parquet", source.__getitem__, 0)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(folder, data):
    path = folder / "damaged.parquet"
    rows = np.arange(30.0)
    parquet.write_table(
        pa.table({"a": rows, "y": rows}),
        path,
        row_group_size=10,
        compression="zstd",
        write_page_checksum=True,
    )
    damaged = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        X, y = together(rv.data.Parquet(path, target="y", features=["a"]))
    except rv.RanvierError:
        pass  # also a name or a size that is another one
    else:
        assert len(X) == len(y)


def test_a_file_that_has_changed_is_refused(tmp_path):
    path = parquet_file(tmp_path / "file", {"a": [1.0] * 4, "y": [1] * 4}, row_group_size=2)
    source = rv.data.Parquet(path, target="y")
    for columns in ({"a": [1.0], "y": [1]}, {"a": [1] * 4, "y": [1] * 4}, {"y": [1] * 4}):
        parquet_file(path, columns, row_group_size=2)
        refused(rv.FileFormatError, "changed", list, source)


def test_the_writer_of_large_files_writes_a_linear_target(tmp_path):
    rows, coefficients = write_parquet(tmp_path / "file", 2, features=9, group_rows=3000, noise=0.0)
    source = rv.data.Parquet(tmp_path / "file", target="y")
    X, y = together(source)
    assert len(X) == rows == 50_000
    assert len(source) == 17
    assert 2e6 < (tmp_path / "file").stat().st_size < 2.1e6
    np.testing.assert_allclose(X @ coefficients, y, atol=1e-5)


# ---------------------------------------------------------------- CSV

ENTRIES = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["", "NaN", "NA", "inf", "-inf", "1e5", "1.", ".5", "+3", " 2", "007"]),
)
QUOTED = st.booleans().flatmap(
    lambda yes: ENTRIES.map(lambda entry: f'"{entry}"' if yes else entry)
)
TEXTS = st.sampled_from(
    ["", "text", '"a ""quoted"" one"', '"with, commas"', 'a 5" pipe', "é", "\t"]
)


@st.composite
def csv_texts(draw):
    columns = draw(st.integers(1, 4))
    names = [f"x{number}" for number in range(columns)]
    quoted = [f'"{name}"' if draw(st.booleans()) else name for name in names]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    integers = draw(st.booleans())
    label = st.integers(0, 9).map(str) if integers else st.floats(-9, 9).map(repr)
    row = st.tuples(st.lists(QUOTED, min_size=columns, max_size=columns), label, TEXTS)
    lines = [",".join([*quoted, "y", "note"])]
    for values, y, note in draw(st.lists(row, min_size=1, max_size=20)):
        lines.append(",".join([*values, y, note]))
        lines += [""] * draw(st.sampled_from([0, 0, 0, 1, 2]))
    start = "\ufeff" if draw(st.booleans()) else ""
    return start + end.join(lines) + (end if draw(st.booleans()) else ""), names, integers


@settings(max_examples=300)
@given(csv_texts(), st.integers(1, 200))
def test_any_blocks_hold_the_whole_file(folder, case, block_bytes):
    text, names, integers = case
    path = csv_file(folder / "any.csv", text)
    source = rv.data.CSV(path, target="y", features=names, block_bytes=block_bytes)
    X, y = together(source)
    expected = pd.read_csv(path, dtype=str)
    np.testing.assert_array_equal(X, expected[names].map(float))
    np.testing.assert_array_equal(y, expected["y"].map(int if integers else float))
    assert X.dtype == np.float64
    assert y.dtype == (np.int64 if integers else np.float64)
    order = np.random.default_rng(0).permutation(len(source))
    blocks = {index: source[index][0] for index in order}
    again = np.concatenate([blocks[index] for index in range(len(source))])
    np.testing.assert_array_equal(again, X)


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", " "])
def test_values_stand_between_any_delimiter(delimiter, tmp_path):
    FRAME.to_csv(tmp_path / "file", sep=delimiter, index=False)
    X, y = together(rv.data.CSV(tmp_path / "file", target="label", delimiter=delimiter))
    np.testing.assert_array_equal(X, FRAME[["a", "b", "w"]])
    np.testing.assert_array_equal(y, FRAME["label"])


def test_a_line_may_be_longer_than_a_block_and_than_what_is_parsed_at_once(tmp_path):
    long = "1." + "0" * (3 << 20)
    text = f"a,y\n1,2\n{long},3\n5,6\n{long},7\n"
    source = rv.data.CSV(csv_file(tmp_path / "file", text), target="y", block_bytes=1 << 20)
    assert [len(X) for X, _ in source] == [2, 0, 0, 2, 0, 0, 0]
    X, y = together(source)
    np.testing.assert_array_equal(X, [[1.0], [1.0], [5.0], [1.0]])
    np.testing.assert_array_equal(y, [2, 3, 6, 7])
    assert source[1][0].shape == (0, 1)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "2"], np.int64),
        (["1", "2.0"], np.float64),
        (["1", "1e3"], np.float64),
        (["-9223372036854775808", "9223372036854775807"], np.int64),
        (["1", "9223372036854775808"], np.float64),
        (["", "1.5"], np.float64),
    ],
)
def test_a_target_of_integers_stays_integer(values, dtype, tmp_path):
    text = "y,x\n" + "".join(f"{value},0\n" for value in values)
    _, y = rv.data.CSV(csv_file(tmp_path / "file", text), target="y")[0]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, pd.Series(values).replace("", "nan").astype(dtype))


def test_the_first_rows_settle_the_targets_type_for_all_files(tmp_path):
    one = csv_file(tmp_path / "one", "x,y\n" + "\n" * 50 + "1,2\n")
    two = csv_file(tmp_path / "two", "x,y\n1,2.5\n")
    _, y = together(rv.data.CSV([two, one], target="y", block_bytes=8))
    assert y.dtype == np.float64
    source = rv.data.CSV([one, two], target="y", block_bytes=8)
    assert source[0][1].dtype == np.int64
    words = "two, line 2: expected an integer in column 'y'.*got '2.5'"
    refused(rv.FileFormatError, words, source.__getitem__, len(source) - 1)


HEAD = "x,y,note\n1,2,a\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names, got an empty file"),
        ("\n\r\n\n", "names, got an empty file"),
        ("\ufeff", "names, got an empty file"),
        (b"\xff\xfex\0,\0y\0\n\0", "UTF-8"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "UTF-8"),
        ('"x\nx",y\n1,2\n', "first line"),
        ("x,y\r1,2\r", "first line"),
        (HEAD + "1,2\r3,4\n", "CR alone"),
        (HEAD + "3,4,a\r5,6,b\n", "CR alone"),
        (HEAD + "3,4\n", "file, line 3: expected 3 values, .*got 2"),
        (HEAD + "3,4,5,6\n", "file, line 3: expected 3 values, .*got 4"),
        (
            HEAD + "\n\r\n3,4,\ntext,6,\n",
            "file, line 6: expected a number in column 'x', got 'text'",
        ),
        (HEAD + "true,6,\n", "file, line 3: expected a number in column 'x', got 'true'"),
        (HEAD + '"1,5",6,\n', "file, line 3: expected a number in column 'x', got '1,5'"),
        (HEAD + "1_0,6,\n", "file, line 3: expected a number in column 'x', got '1_0'"),
        (HEAD + "5,2.5,\n" * 99, "file, line 3: expected an integer in column 'y'"),
        ("x,y\n1,no\n", "file, line 2: expected a number in column 'y', got 'no'"),
        (HEAD + '3,4,"open\n5,6,b"\n7,8,c\n', "file, line 3: expected quotes to close"),
        (HEAD + '3,4,"open\n', "file, line 3: expected quotes to close"),
        (HEAD + '3,"4\n', "file, line 3: expected quotes to close"),
    ],
)
@pytest.mark.parametrize("block_bytes", [5, 1 << 20])
def test_faults_of_a_file_are_refused_with_line_and_column(text, words, block_bytes, tmp_path):
    path = csv_file(tmp_path / "file", text)

    def read():
        return list(
            rv.data.CSV(path, target="y", features=["x"], block_bytes=block_bytes),
        )

    if "expected an integer" in words and block_bytes > 100:
        # The whole file is the first block.
        assert read()[0][1].dtype == np.float64
        return
    assert refused(rv.FileFormatError, words, read).startswith(str(path))


@given(st.data(), st.integers(1, 60))
def test_line_ends_within_quotes_are_never_read_as_rows(folder, data, block_bytes):
    """Wherever blocks end, some block is refused."""
    rows = [f"{number},{number},plain" for number in range(data.draw(st.integers(1, 8)))]
    inner = data.draw(st.lists(st.sampled_from(["9,9,9", "8,8", "text", ""]), min_size=2))
    rows.insert(data.draw(st.integers(0, len(rows))), '1,2,"' + "\n".join(inner) + '"')
    path = csv_file(folder / "quoted.csv", "x,y,note\n" + "\n".join(rows) + "\n")
    with pytest.raises(rv.FileFormatError, match="line"):
        list(rv.data.CSV(path, target="y", features=["x"], block_bytes=block_bytes))


@given(st.binary(max_size=20).map(lambda b: bytes(b'\n\r",x'[byte % 5] for byte in b)), st.data())
def test_lines_and_quotes_are_counted_across_pieces(text, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ranvier._text._PIECE", data.draw(st.integers(1, 21)))
        lines, quotes, empty = _survey(bytearray(text))
    found = text.split(b"\n")
    found = found[:-1] if found[-1] == b"" else found
    assert (lines, quotes) == (len(found), text.count(b'"'))
    ended = found if text.endswith(b"\n") else found[:-1]
    assert empty == any(line in (b"", b"\r") for line in ended)


@given(st.integers(1, 200), st.integers(0, 499), st.booleans())
def test_the_line_of_a_fault_is_found_anywhere(folder, block_bytes, fault, blank):
    lines = [f"{number},{number % 2}" for number in range(500)]
    lines[fault] = f"x{fault},1"
    end = "\n\n" if blank else "\n"
    path = csv_file(folder / "fault.csv", "a,y\n" + end.join(lines))
    source = rv.data.CSV(path, target="y", block_bytes=40 * block_bytes)
    line = 2 + fault * len(end)
    words = f"line {line}: expected a number in column 'a', got 'x{fault}'"
    refused(rv.FileFormatError, words, list, source)


def test_names_are_needed_for_all_columns_and_only_once(tmp_path):
    FRAME.to_csv(tmp_path / "file")
    words = "features: .*column 1 without one"
    refused(rv.ArgumentError, words, rv.data.CSV, tmp_path / "file", target="label")
    X, _ = together(rv.data.CSV(tmp_path / "file", target="label", features=["b"]))
    np.testing.assert_array_equal(X, FRAME[["b"]])
    path = csv_file(tmp_path / "file", "a,b,a,y\n1,2,3,4\n")
    refused(rv.FileFormatError, "one column 'a', got several", rv.data.CSV, path, target="y")
    X, _ = rv.data.CSV(path, target="y", features=["b"])[0]
    np.testing.assert_array_equal(X, [[2.0]])


def test_a_csv_file_that_has_changed_its_size_is_refused(tmp_path):
    path = csv_file(tmp_path / "file", "a,y\n1,2\n")
    source = rv.data.CSV(path, target="y")
    csv_file(path, "a,y\n1,2\n3,4\n")
    refused(rv.FileFormatError, "expected 8 bytes, got a changed file of 12", source.__getitem__, 0)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"delimiter": ""}, rv.ArgumentError, "delimiter: .*got ''"),
        ({"delimiter": ",,"}, rv.ArgumentError, "delimiter: .*got ',,'"),
        ({"delimiter": '"'}, rv.ArgumentError, "delimiter: "),
        ({"delimiter": "\n"}, rv.ArgumentError, "delimiter: "),
        ({"delimiter": "é"}, rv.ArgumentError, "delimiter: "),
        ({"delimiter": 3}, rv.DTypeError, "delimiter: .*got 3"),
        ({"block_bytes": 0}, rv.ArgumentError, "block_bytes: .*got 0"),
        ({"block_bytes": 1 << 40}, rv.ArgumentError, "block_bytes: "),
        ({"block_bytes": 1e6}, rv.DTypeError, "block_bytes: "),
    ],
)
def test_wrong_options_of_csv_are_refused(options, kind, words, tmp_path):
    path = csv_file(tmp_path / "file", "a,y\n1,2\n")
    refused(kind, words, rv.data.CSV, path, target="y", **options)


# ---------------------------------------------------------------- training

LIMITED = """
import resource, sys, numpy as np, ranvier as rv
path, small, whole, extra = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

if whole:
    limit(whole)
adam = rv.Adam(learning_rate=rv.schedules.Polynomial(0.02, steps=1500))
trainer = rv.Trainer(rv.Sequential([rv.Dense(1)]), loss="mse", optimizer=adam)
if extra:
    # Libraries and threads are there; what comes now is for the data.
    trainer.fit(rv.data.Parquet(small, target="y"), batch_size=512)
    with open("/proc/self/statm") as file:
        limit(int(file.read().split()[0]) * resource.getpagesize() + extra)
trainer.fit(rv.data.Parquet(path, target="y"), batch_size=512)
print(trainer.step, *trainer.model.parameters()["0.weight"][:, 0])
"""


def train_under_a_limit(folder, megabytes, *, whole=0, extra=0):
    """Steps and rows of a training under a limit of address space, in bytes, that ends well."""
    path, small = folder / "large", folder / "small"
    write_parquet(small, 12, group_rows=20_000)
    rows, coefficients = write_parquet(path, megabytes, group_rows=20_000)
    assert path.stat().st_size >= 10 * max(whole, extra)
    command = [sys.executable, "-c", LIMITED, *map(str, (path, small, whole, extra))]
    # Each thread of the allocator's and of OpenBLAS's reserves addresses that nobody uses.
    env = os.environ | {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    path.unlink()
    assert done.returncode == 0, done.stderr
    step, *found = map(float, done.stdout.split())
    np.testing.assert_allclose(found, coefficients, atol=0.02)
    return step, rows


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's means")
def test_a_file_ten_times_larger_than_the_memory_for_its_data_trains(tmp_path):
    step, rows = train_under_a_limit(tmp_path, 340, extra=32 << 20)
    assert step > rows / 512


@pytest.mark.timeout(900)
@pytest.mark.skipif("RANVIER_LARGE" not in os.environ, reason="6 GB; see `make large`")
def test_a_file_ten_times_larger_than_all_memory_of_the_process_trains(tmp_path):
    step, rows = train_under_a_limit(tmp_path, 6400, whole=600 << 20)
    assert step > rows / 512


def test_a_source_trains_as_its_arrays_do(tmp_path):
    """To the bits, where a block is the whole."""
    table = {"a": np.linspace(-1, 1, 60), "b": np.ones(60, bool), "y": np.arange(60) >= 30}
    frame = pd.DataFrame(table)
    frame.astype(float).astype({"y": int}).to_csv(tmp_path / "csv", index=False)
    sources = [
        rv.data.Parquet(parquet_file(tmp_path / "parquet", table), target="y"),
        rv.data.CSV(tmp_path / "csv", target="y"),
    ]
    results = []
    for data in [(frame[["a", "b"]].to_numpy(float), table["y"].astype(int)), *zip(sources)]:
        model = rv.Sequential([rv.Dense(2)], seed=0, dtype="float64")
        history = model.fit(*data, loss="cross_entropy", epochs=30, batch_size=10)
        results.append(history["loss"])
    assert results[0] == results[1] == results[2]
    assert results[0][-1] < results[0][0]


def test_a_source_is_no_array(tmp_path):
    source = rv.data.Parquet(parquet_file(tmp_path / "file", {"a": [1.0], "y": [1.0]}), target="y")
    model = rv.Sequential([rv.Dense(1)], input_size=1)
    for function in (lambda: model.predict(source), lambda: model.fit(source, [1.0], loss="mse")):
        refused(rv.DTypeError, "^X: expected an array, got a source of blocks, Parquet", function)
    refused(rv.DTypeError, "^paths: .*got DataFrame; frames", rv.data.CSV, FRAME, target="y")


def test_a_validation_source_has_the_same_features(tmp_path):
    table = {"a": [1.0, 2.0], "b": [0.0, 1.0], "y": [1.0, 2.0]}
    path = parquet_file(tmp_path / "file", table)
    source = rv.data.Parquet(path, target="y")
    other = rv.data.Parquet(path, target="y", features=["b", "a"])
    model = rv.Sequential([rv.Dense(1)])
    words = "^validation_data: expected the features of X"
    refused(rv.ArgumentError, words, model.fit, source, loss="mse", validation_data=other)
    model.fit(source, loss="mse", validation_data=source)


def test_the_writer_says_how_many_rows(tmp_path):
    script = Path(__file__).with_name("parquet_writer.py")
    command = [sys.executable, str(script), str(tmp_path / "file"), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{parquet.read_metadata(tmp_path / 'file').num_rows} rows\n"
