"""Model files: whole or not at all, damage detected, nothing executed, torch's names and layout."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from ranvier.model import _from_bytes

X = np.random.default_rng(0).normal(size=(12, 3))


def model(seed=0, dtype="float32"):
    layers = [rv.Dense(3, activation="prelu"), rv.BatchNorm(), rv.LayerNorm(), rv.Dense(2)]
    return rv.Sequential(layers, input_size=3, seed=seed, dtype=dtype)


def bits(m):
    return repr(m), [(name, value.tobytes()) for name, value in m.parameters().items()]


def file_of(m):
    return m.__reduce__()[1][0]


def parts(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def forge(header, data, *, checksum=True, text=None):
    """A file with this header and a checksum that is right."""
    zeros = "0" * 64
    if checksum:
        header = {**header, "__metadata__": {"ranvier.checksum": zeros, **header["__metadata__"]}}
        header["__metadata__"]["ranvier.checksum"] = zeros
    text = json.dumps(header, separators=(",", ":")) if text is None else text
    head = text.encode()
    whole = struct.pack("<Q", len(head)) + head + data
    digest = hashlib.sha256(whole).hexdigest().encode()
    return whole.replace(zeros.encode(), digest, 1)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_with_every_bit(tmp_path, dtype):
    m = model(dtype=dtype)
    m.fit(X, X[:, :2], loss="mse")
    m.save(tmp_path / "model.safetensors")
    back = rv.load(tmp_path / "model.safetensors")
    assert bits(back) == bits(m)
    assert back.predict(X).tobytes() == m.predict(X).tobytes()
    assert bits(pickle.loads(pickle.dumps(m))) == bits(m)


DEFINITIONS = [
    rv.Dense(4, activation=rv.activations.LeakyReLU(0.2), use_bias=False),
    rv.Dense(4, weight_init=rv.initializers.HeNormal(truncated=True), bias_init="ones"),
    rv.Dense(4, activation=rv.activations.PReLU(0.1)),
    rv.Dense(4, activation="softmax"),
    rv.Activation("prelu"),
    rv.Activation(rv.activations.ELU(0.5)),
    rv.Dropout(0.25),
    rv.GaussianNoise(0.5),
    rv.LayerNorm(eps=1e-3),
    rv.BatchNorm(momentum=0.2, eps=1e-3),
    rv.Softmax(),
]


@pytest.mark.parametrize("layer", DEFINITIONS, ids=repr)
def test_every_layer_comes_back(layer):
    m = rv.Sequential([rv.Dense(4), layer, rv.Dense(70, activation="tanh"), layer], input_size=5)
    back = _from_bytes(file_of(m))
    assert bits(back) == bits(m)
    assert back.layers == m.layers


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        rv.losses.Huber(delta=0.3),
        rv.losses.Quantile(q=[0.1, 0.9]),
        rv.losses.BinaryCrossEntropy(pos_weight=[1.0, 2.5]),
        rv.losses.BinaryCrossEntropy(pos_weight=3.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        rv.SGD(learning_rate=1 / 3, momentum=0.9, nesterov=True, dialect="keras"),
        rv.AdamW(learning_rate=rv.schedules.OneCycle(0.1, steps=9), amsgrad=True, clip_value=0.5),
        rv.Adam(learning_rate=rv.schedules.Warmup(1 / 7, steps=3)),
    ],
    ids=repr,
)
def test_every_definition_comes_back(tmp_path, loss, optimizer):
    m = rv.Sequential([rv.Dense(2)], input_size=3)
    trainer = rv.Trainer(m, loss=loss, optimizer=optimizer, seed=2**64 - 1)
    trainer.save(tmp_path / "run.safetensors")
    back = rv.Trainer.resume(tmp_path / "run.safetensors")
    assert (back.loss, back.optimizer) == (trainer.loss, trainer.optimizer)
    assert repr(back) == repr(trainer)


def test_a_file_is_the_same_bytes_each_time():
    assert file_of(model()) == file_of(model())


def test_a_model_without_input_size_is_pickled_but_not_saved(tmp_path):
    m = rv.Sequential([rv.Dense(2)], seed=7, dtype="float64")
    assert repr(pickle.loads(pickle.dumps(m))) == repr(m)
    with pytest.raises(rv.NotFittedError):
        m.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- torch


def twin_in_torch(torch):
    nn = torch.nn
    layers = [nn.Linear(3, 3), nn.PReLU(), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.Linear(3, 2)]
    return nn.Sequential(*layers)


def test_torch_takes_the_weights_and_gives_them_back(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    m = model()
    m.fit(X, X[:, :2], loss="mse", epochs=20)
    m.save(tmp_path / "ours.safetensors")
    twin = twin_in_torch(torch).eval()
    twin.load_state_dict(safetensors.load_file(tmp_path / "ours.safetensors"))
    theirs = twin(torch.tensor(X, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(theirs, m.predict(X), rtol=1e-6, atol=1e-6)

    other = twin_in_torch(torch).eval()
    safetensors.save_file(other.state_dict(), tmp_path / "theirs.safetensors")
    m.load_weights(tmp_path / "theirs.safetensors")
    theirs = other(torch.tensor(X, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(theirs, m.predict(X), rtol=1e-6, atol=1e-6)
    with pytest.raises(rv.FileFormatError, match="no checksum of ranvier's"):
        rv.load(tmp_path / "theirs.safetensors")


def test_a_file_has_torchs_names_and_layout():
    """What the state_dict of Sequential(Linear, PReLU, BatchNorm1d, LayerNorm, Linear) has."""
    header, _ = parts(file_of(model()))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    assert shapes == {
        "2.num_batches_tracked": [],
        "0.weight": [3, 3],
        "0.bias": [3],
        "1.weight": [1],
        "2.weight": [3],
        "2.bias": [3],
        "3.weight": [3],
        "3.bias": [3],
        "4.weight": [2, 3],
        "4.bias": [2],
        "2.running_mean": [3],
        "2.running_var": [3],
    }
    values = {"0.weight": np.arange(9.0).reshape(3, 3)}
    m = model(dtype="float64")
    m.set_parameters(values)
    header, data = parts(file_of(m))
    first, end = header["0.weight"]["data_offsets"]
    stored = np.frombuffer(data[first:end]).reshape(3, 3)
    assert np.array_equal(stored, values["0.weight"].T)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.pop("4.bias"), rv.FileFormatError, "expected tensors"),
        (lambda t: t.update({"5.bias": np.ones(2, "f4")}), rv.FileFormatError, "expected tensors"),
        (lambda t: t.update({"4.bias": np.ones(3, "f4")}), rv.FileFormatError, "4.bias"),
        (lambda t: t.update({"4.bias": np.ones(2, "i4")}), rv.FileFormatError, "got I32"),
        (lambda t: t.update({"4.bias": np.array([1, np.nan], "f4")}), rv.ArgumentError, "finite"),
    ],
)
def test_foreign_weights_that_do_not_fit_are_refused(tmp_path, change, error, words):
    numpy = pytest.importorskip("safetensors.numpy")
    m = model()
    tensors = {
        name: value.copy()
        for name, value in numpy.load(file_of(m)).items()
        if not name.endswith("tracked")
    }
    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
    numpy.save_file(tensors, tmp_path / "fine.safetensors")
    before = bits(m)
    m.load_weights(tmp_path / "fine.safetensors")
    assert bits(m) == before
    change(tensors)
    numpy.save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(error, match=words):
        m.load_weights(tmp_path / "other.safetensors")
    assert bits(m) == before


# ---------------------------------------------------------------- damaged files


def test_damaged_files_are_refused_or_loaded_equal():
    """All truncations, all bit flips, bytes inserted and removed: above 10,000 files."""
    m = rv.Sequential([rv.Dense(4, activation="tanh"), rv.Dense(2)], input_size=6)
    data = file_of(m)
    expected = bits(m)
    files = [data[:length] for length in range(len(data))]
    files += [data + b"\0", data + b" ", b"\0" + data]
    for place in range(len(data)):
        for bit in range(8):
            files.append(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        files.append(data[:place] + data[place + 1 :])
        files.append(data[:place] + b"x" + data[place:])
    assert len(files) > 10_000
    refused = 0
    for damaged in files:
        try:
            back = _from_bytes(damaged)
        except rv.FileFormatError:
            refused += 1
        else:
            assert bits(back) == expected
    assert refused == len(files)


def entry(header, key, value):
    header["__metadata__"][key] = value


def definition(header, change):
    text = json.loads(header["__metadata__"]["ranvier.model"])
    change(text)
    entry(header, "ranvier.model", json.dumps(text))


def shape(header, name, new):
    header[name]["shape"] = new


def ends(header):
    return max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_")


HOSTILE = {
    "no metadata": lambda h: h.update({"__metadata__": {}}),
    "no model": lambda h: h["__metadata__"].pop("ranvier.model"),
    "another numerics version": lambda h: entry(h, "ranvier.numerics", "2"),
    "no numerics version": lambda h: h["__metadata__"].pop("ranvier.numerics"),
    "no json": lambda h: entry(h, "ranvier.model", "{"),
    "a list": lambda h: entry(h, "ranvier.model", "[]"),
    "deep json": lambda h: entry(h, "ranvier.model", "[" * 100_000),
    "deep definition": lambda h: entry(
        h, "ranvier.model", '{"layers":' + "[" * 900 + "]" * 900 + "}"
    ),
    "no layers": lambda h: definition(h, lambda m: m.update(layers=[])),
    "layers of another kind": lambda h: definition(h, lambda m: m.update(layers=7)),
    "a class of the system's": lambda h: definition(
        h, lambda m: m["layers"].append({"class": "os.system", "options": {"command": "true"}})
    ),
    "a class of the package's": lambda h: definition(
        h, lambda m: m["layers"].append({"class": "losses.MSE", "options": {}})
    ),
    "a class by another type": lambda h: definition(
        h, lambda m: m["layers"].append({"class": ["layers.Dense"], "options": {}})
    ),
    "options of another type": lambda h: definition(
        h, lambda m: m["layers"].append({"class": "layers.Dense", "options": [1]})
    ),
    "an unknown option": lambda h: definition(
        h, lambda m: m["layers"][0]["options"].update(__class__="x")
    ),
    "an unknown key": lambda h: definition(h, lambda m: m["layers"][0].update(module="os")),
    "a definition in place of a number": lambda h: definition(
        h, lambda m: m["layers"][0]["options"].update(units=m["layers"][1])
    ),
    "something of the user's": lambda h: definition(
        h, lambda m: m["layers"].append({"opaque": "exit()"})
    ),
    "a wide layer": lambda h: definition(
        h, lambda m: m["layers"][0]["options"].update(units=2**31)
    ),
    "a wider layer": lambda h: definition(
        h, lambda m: m["layers"][0]["options"].update(units=10**400)
    ),
    "many features": lambda h: definition(h, lambda m: m.update(input_size=2**31)),
    "no features": lambda h: definition(h, lambda m: m.update(input_size=None)),
    "negative features": lambda h: definition(h, lambda m: m.update(input_size=-3)),
    "another dtype": lambda h: definition(h, lambda m: m.update(dtype="float64")),
    "no dtype": lambda h: definition(h, lambda m: m.update(dtype="object")),
    "a seed of text": lambda h: definition(h, lambda m: m.update(seed="x")),
    "no seed": lambda h: definition(h, lambda m: m.pop("seed")),
    "many layers": lambda h: definition(h, lambda m: m.update(layers=m["layers"] * 3000)),
    "another activation": lambda h: definition(
        h, lambda m: m["layers"][0]["options"].update(activation="eval")
    ),
    "a tensor more": lambda h: h.update(
        {"0.scale": {"dtype": "F32", "shape": [0], "data_offsets": [ends(h)] * 2}}
    ),
    "a tensor more of a run": lambda h: h.update(
        {"best.0.bias": {"dtype": "F32", "shape": [0], "data_offsets": [ends(h)] * 2}}
    ),
    "a missing tensor": lambda h: h.pop("0.bias"),
    "a renamed tensor": lambda h: h.update({"x": h.pop("0.bias")}),
    "another shape": lambda h: shape(h, "0.weight", [9]),
    "a huge shape": lambda h: shape(h, "0.weight", [2**62, 2**62]),
    "a negative shape": lambda h: shape(h, "0.weight", [-3, -3]),
    "another type": lambda h: h["0.weight"].update(dtype="I32"),
    "an unknown type": lambda h: h["0.weight"].update(dtype="PY"),
    "an overlap": lambda h: h["0.bias"].update(data_offsets=h["1.weight"]["data_offsets"]),
    "offsets backwards": lambda h: h["0.bias"].update(
        data_offsets=h["0.bias"]["data_offsets"][::-1]
    ),
    "offsets outside": lambda h: h["0.bias"].update(data_offsets=[2**63, 2**63 + 12]),
    "metadata of numbers": lambda h: entry(h, "n", 3),
    "a tensor of text": lambda h: h.update({"x": "y"}),
    "many tensors": lambda h: h.update(
        {str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(70_000)}
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_with_a_right_checksum_is_refused(case):
    header, data = parts(file_of(model()))
    assert bits(_from_bytes(forge(header, data))) == bits(model())
    HOSTILE[case](header)
    forged = forge(header, data)
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(rv.FileFormatError):
        _from_bytes(forged)
    assert time.process_time() - begun < 1
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 60 * len(forged) + 2**25


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    header, data = parts(file_of(model()))
    first, _ = header["4.weight"]["data_offsets"]
    data = data[:first] + np.float32(bad).tobytes() + data[first + 4 :]
    with pytest.raises(
        rv.FileFormatError, match=r'tensor "4\.weight": a number that is not finite'
    ):
        _from_bytes(forge(header, data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\0" * 4096,
        b"\x80\x02]q\x00.",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b" {}",
        struct.pack("<Q", 2) + b"\xff\xfe",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 20_005) + b'{"a":' + b"[" * 20_000,
        struct.pack("<Q", 40) + b'{"__metadata__":{},"__metadata__":{}}   ',
        os.urandom(5000),
    ],
    ids=range(14),
)
def test_what_is_no_safetensors_file_is_refused(data):
    with pytest.raises(rv.FileFormatError):
        _from_bytes(data)


def test_a_name_twice_is_refused():
    header, data = parts(file_of(model()))
    header["__metadata__"] = {"ranvier.checksum": "0" * 64, **header["__metadata__"]}
    header["__metadata__"]["ranvier.checksum"] = "0" * 64
    text = json.dumps(header, separators=(",", ":"))
    one = json.dumps({"0.bias": header["0.bias"]}, separators=(",", ":"))[1:-1]
    twice = text[:-1] + "," + one + "}"
    with pytest.raises(rv.FileFormatError, match="twice"):
        _from_bytes(forge(header, data, checksum=False, text=twice))


def run_file():
    trainer = rv.Trainer(model(), loss="mse")
    trainer.fit(X, X[:, :2], epochs=2)
    return trainer.__reduce__()[1][0]


RUNS = {
    "no run": lambda run: run.clear(),
    "a loss of the system's": lambda run: run.update(loss={"class": "os", "options": {}}),
    "an optimizer as loss": lambda run: run.update(loss=run["optimizer"]),
    "a number as optimizer": lambda run: run.update(optimizer=3),
    "another precision": lambda run: run.update(precision="int4"),
    "negative steps": lambda run: run["standing"].update(step=-1),
    "steps beyond counting": lambda run: run["standing"].update(step=2**64 - 1),
    "epochs beyond counting": lambda run: run["standing"].update(epoch=2**63),
    "epochs of text": lambda run: run["standing"].update(epoch="3"),
    "no standing": lambda run: run.pop("standing"),
    "a torn standing": lambda run: run["standing"].pop("until"),
    "a place of text": lambda run: run["standing"].update(position=["a", 1, 2, 3]),
    "a history of text": lambda run: run.update(history="none"),
    "a torn history": lambda run: run["history"]["loss"].pop(),
    "a history of numbers": lambda run: run["history"].update(loss=3),
    "a plan of numbers": lambda run: run.update(plan=3),
    "a torn plan": lambda run: run["plan"].pop("batch_size"),
    "rows of text": lambda run: run["plan"].update(batch_size="32"),
    "no rows": lambda run: run["plan"].update(batch_size=0),
    "a share beyond all": lambda run: run["plan"].update(split=[2.0, 0]),
    "a watch of text": lambda run: run["plan"].update(watch="loss"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_hostile_run_is_refused(tmp_path, case):
    header, data = parts(run_file())
    run = json.loads(header["__metadata__"]["ranvier.run"])
    RUNS[case](run)
    header["__metadata__"]["ranvier.run"] = json.dumps(run)
    path = tmp_path / "run.safetensors"
    path.write_bytes(forge(header, data))
    with pytest.raises(rv.FileFormatError):
        rv.Trainer.resume(path)


# ---------------------------------------------------------------- what the system says


def test_reading_what_is_no_regular_file_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        rv.load(tmp_path / "nothing.safetensors")
    assert caught.value.filename == str(tmp_path / "nothing.safetensors")
    with pytest.raises(rv.FileFormatError, match="no regular file"):
        rv.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(rv.FileFormatError, match="no regular file"):
        rv.load(tmp_path / "pipe")
    with pytest.raises(rv.FileFormatError, match="no regular file"):
        rv.load("/dev/zero")
    with pytest.raises(rv.DTypeError, match="path: expected a path, got 3"):
        rv.load(3)
    with pytest.raises(rv.ArgumentError, match="null"):
        rv.load("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_saving_does_not_replace_a_pipe_or_device_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    trainer = rv.Trainer(model(), loss="mse")
    for save in (model().save, model().quantize(X).save, trainer.save):
        for path in (pipe, link):
            with pytest.raises(rv.ArgumentError, match="path: expected a file's name, got a pipe"):
                save(path)
    assert pipe.is_fifo()


def test_a_refused_save_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    old = model(1)
    old.save(path)
    with pytest.raises(FileNotFoundError):
        old.save(tmp_path / "no" / "model.safetensors")
    with pytest.raises(rv.ArgumentError, match="path: expected a file's name"):
        old.save(tmp_path)
    with pytest.raises(OSError, match="name too long"):
        old.save(tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        old.save(tmp_path / "file" / "model.safetensors")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "model.safetensors"]
    assert bits(rv.load(path)) == bits(old)


def test_a_full_disk_at_any_byte_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands for the disk: EFBIG where it would be ENOSPC."""
    path = tmp_path / "model.safetensors"
    old, new = model(1), model(2)
    old.save(path)
    whole = path.stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for size in [0, 1, 7, 8, *range(9, whole, 41), whole - 1]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(OSError, match="cannot write") as caught:
                new.save(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert caught.value.errno == errno.EFBIG
            assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
            assert bits(rv.load(path)) == bits(old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    new.save(path)
    assert bits(rv.load(path)) == bits(new)


def test_the_error_of_a_save_names_the_file_itself(tmp_path):
    with pytest.raises(OSError, match=r"missing/model\.safetensors") as caught:
        model().save(tmp_path / "missing" / "model.safetensors")
    assert ".tmp" not in str(caught.value)


@pytest.mark.parametrize("text", ["a,b,target\n1,2,3\n", "%PDF-1.7 and so on", "\x89PNG\r\n\x1a\n"])
def test_a_file_of_something_else_is_said_to_be_no_safetensors(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(rv.FileFormatError, match="no safetensors file"):
        rv.load(path)


def test_a_save_keeps_permissions_links_and_the_umask(tmp_path):
    path, link = tmp_path / "model.safetensors", tmp_path / "newest"
    before = os.umask(0o027)
    try:
        model().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        link.symlink_to(path)
        model(5).save(link)
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert bits(rv.load(path)) == bits(model(5))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_save_sweeps_what_dead_processes_left(tmp_path):
    gone, alive = tmp_path / ".ranvier-999999999-0.tmp", tmp_path / f".ranvier-{os.getpid()}-9.tmp"
    fresh = tmp_path / ".ranvier-999999998-0.tmp"
    for file in (gone, alive, fresh):
        file.write_text("torn")
    for file in (gone, alive):
        os.utime(file, (1, 1))
    model().save(tmp_path / "model.safetensors")
    assert not gone.exists()
    assert alive.exists()
    assert fresh.exists()


KILLS = int(os.environ.get("RANVIER_KILLS", "60"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_9_while_saving_leaves_the_old_file_or_the_new_one(tmp_path):
    """RANVIER_KILLS=1000 (`make crash`) for the whole of it."""
    path = tmp_path / "model.safetensors"
    models = [rv.Sequential([rv.Dense(100)], input_size=300, seed=seed) for seed in (1, 2)]
    known = [bits(m) for m in models]
    models[0].save(path)
    seen = set()
    draw = random.Random(0)
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            while True:
                for m in models:
                    m.save(path)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = bits(rv.load(path))
        assert now in known
        seen.add(known.index(now))
    assert seen == {0, 1}


SAVING = """
import sys, ranvier as rv
sys.path.insert(0, {tests!r})
from test_files import model
new = model(2)
print("ready", flush=True)
sys.stdin.readline()
try:
    new.save(sys.argv[1])
except OSError as error:
    print("refused", error.errno, flush=True)
else:
    print("saved", flush=True)
"""


def under_strace(path, fault, log):
    """What a save says whose process is attached to with a fault; None if it was killed."""
    code = SAVING.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child:
        assert child.stdout.readline() == "ready\n"
        strace = ["strace", "-f", "-o", str(log), "-e", "trace=all", "-e", fault]
        with subprocess.Popen([*strace, "-p", str(child.pid)], stderr=subprocess.PIPE) as tracer:
            assert b"attached" in tracer.stderr.readline()
            try:
                said, _ = child.communicate("\n", timeout=30)
            except BrokenPipeError:
                said = ""
    return said.strip() or None


@pytest.mark.skipif("RANVIER_STRACE" not in os.environ, reason="minutes; see `make crash`")
def test_a_fault_at_any_system_call_of_a_save_leaves_the_old_file_or_the_new_one(tmp_path):
    """Each call of the system in turn: the process is killed there, or the call fails."""
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    path = folder / "model.safetensors"
    old, new = model(1), model(2)
    old.save(path)
    # strace counts the calls of each name by themselves.
    assert under_strace(path, "trace=all", log) == "saved"
    calls = {line.split()[1].partition("(")[0] for line in log.read_text().splitlines()}
    calls = {call for call in calls if call.isidentifier()}
    assert {"openat", "write", "fsync", "rename", "read"} <= calls
    faults = [("signal=KILL", call) for call in sorted(calls - {"exit_group"})]
    faults += [
        (f"error={error}", call)
        for error in ("ENOSPC", "EIO", "EACCES")
        for call in ("openat", "write", "fsync", "rename", "lseek", "fchmod")
    ]
    tried = {}
    for fault, call in faults:
        for number in itertools.count(1):
            old.save(path)
            said = under_strace(path, f"inject={call}:{fault}:when={number}", log)
            case = (fault, call, number, said)
            now = bits(rv.load(path))
            assert now in (bits(old), bits(new)), case
            if fault != "signal=KILL":
                assert [entry.name for entry in folder.iterdir()] == [path.name], case
                # After the renaming the new file is there, while the folder's sync, or the
                # process's own last words, may still fail.
                assert now == bits(new) or said.startswith("refused"), case
            for entry in folder.glob(".ranvier-*.tmp"):
                entry.unlink()
            if said == "saved":
                break
            tried[fault] = tried.get(fault, 0) + 1
    assert tried["signal=KILL"] > 20
    print(f"faults tried, each with the old file or the new one left: {tried}")
