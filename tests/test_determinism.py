"""The same bits, whatever the threads, the instruction set, the run and the rows around a row.

`python tests/test_determinism.py --write` rewrites data/golden_hashes.json; that is right only
together with a new numerics version (or before the first release).
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv

GOLDEN = Path(__file__).parent / "data" / "golden_hashes.json"
THREADS = [1, 2, 3, 4, 8]
WIDTHS = [1, 15, 16, 17, 63, 64, 65, 130]
DTYPES = ["float32", "float64"]


# ---------------------------------------------------------------- what is trained


def numbers(rows, columns, seed=0):
    """Numbers in [-1, 1) that hang on no library: a multiplicative hash of the index."""
    index = np.arange(rows * columns, dtype=np.uint64) + np.uint64(seed * 1_000_003 + 1)
    mixed = index * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(11)).reshape(rows, columns) / 2.0**52 - 1.0


def chain(widths, activation="relu"):
    return [rv.Dense(width, activation=activation) for width in widths]


def normalized(width):
    return [
        rv.Dense(width, activation="gelu"),
        rv.BatchNorm(),
        rv.Dropout(0.3),
        rv.Dense(width, activation=rv.activations.PReLU()),
        rv.LayerNorm(),
        rv.Dense(width, activation="silu"),
    ]


# name: (input_size, layers, loss, outputs, optimizer, dtype, rows, batch_size); a dtype of "bf16"
# is float32 trained in that precision, one of "int8" float32 that is quantised, too
NETWORKS = {
    "edges relu sgd": (130, chain(WIDTHS), "mse", 3, rv.SGD(momentum=0.9), "float32", 128, 64),
    "edges tanh adam": (65, chain(WIDTHS[::-1], "tanh"), "huber", 2, rv.Adam(), "float64", 65, 7),
    "wide adam": (130, chain([257, 255]), "cross_entropy", 10, rv.Adam(), "float32", 300, 129),
    "edges bf16": (130, chain(WIDTHS), "mse", 3, rv.SGD(momentum=0.9), "bf16", 129, 63),
    "wide bf16": (131, chain([257, 255]), "cross_entropy", 10, rv.Adam(), "bf16", 300, 129),
    "normalized adamw": (63, normalized(130), "mse", 17, rv.AdamW(), "float32", 200, 65),
    "normalized clipped": (
        *(64, normalized(65), "gaussian_nll", 16, rv.Adam(clip_norm=0.1, amsgrad=True)),
        *("float64", 129, 64),
    ),
    "nesterov": (
        *(17, chain([130, 130], "elu"), "binary_cross_entropy", 15),
        *(rv.SGD(momentum=0.9, nesterov=True, weight_decay=0.01), "float32", 140, 130),
    ),
    "keras": (
        *(16, chain([64, 130], "softplus"), "poisson", 1),
        *(rv.SGD(momentum=0.5, dialect="keras", clip_value=0.01), "float64", 64, 64),
    ),
    # Batches whose steps are shared among threads.
    "edges shared": (130, chain(WIDTHS), "mse", 3, rv.SGD(momentum=0.9), "float32", 520, 257),
    "edges shared float64": (
        *(65, chain(WIDTHS[::-1], "tanh"), "huber", 2),
        *(rv.Adam(), "float64", 520, 257),
    ),
    "edges shared bf16": (130, chain(WIDTHS), "mse", 3, rv.Adam(), "bf16", 520, 257),
    "edges int8": (130, chain(WIDTHS), "mse", 3, rv.SGD(momentum=0.9), "int8", 129, 63),
    "wide int8": (131, chain([257, 255]), "cross_entropy", 10, rv.Adam(), "int8", 520, 257),
    "clipped shared": (
        *(64, normalized(65), "gaussian_nll", 16, rv.Adam(clip_norm=0.1)),
        *("float32", 520, 257),
    ),
    "many classes": (17, chain([257]), "cross_entropy", 130, rv.Adam(), "float32", 520, 257),
    "quasi-newton": (
        17,
        chain([65, 9], "tanh"),
        "cross_entropy",
        3,
        rv.LBFGS(),
        "float32",
        700,
        700,
    ),
    "least squares": (
        5,
        chain([33], "gelu"),
        "mse",
        2,
        rv.LevenbergMarquardt(),
        "float64",
        129,
        129,
    ),
    "one by one": (
        1,
        chain([1, 16], "mish"),
        "mae",
        1,
        rv.Adam(dialect="sklearn"),
        "float32",
        9,
        1,
    ),
}


def targets(loss, rows, outputs):
    if loss == "cross_entropy":
        return (numbers(rows, 1, 7)[:, 0] * 1e6).astype(int) % outputs
    if loss == "gaussian_nll":
        return numbers(rows, outputs // 2, 7)
    y = numbers(rows, outputs, 7)
    return (y > 0) * 1.0 if loss in ("binary_cross_entropy", "poisson") else y


def train(name, epochs=2, seed=0):
    """The trained model and everything that came of it, as bytes."""
    inputs, layers, loss, outputs, optimizer, dtype, rows, batch_size = NETWORKS[name]
    layers = [*layers, rv.Dense(outputs)]
    precision = "bf16" if dtype == "bf16" else None
    quantization = "int8" if dtype == "int8" else None
    dtype = "float32" if precision or quantization else dtype
    model = rv.Sequential(layers, input_size=inputs, seed=seed, dtype=dtype)
    narrow = {"precision": precision, "quantization": quantization}
    trainer = rv.Trainer(model, loss=loss, optimizer=optimizer, seed=seed, **narrow)
    x, y = numbers(rows, inputs), targets(loss, rows, outputs)
    weight = 1.0 + np.arange(rows) % 3
    history = trainer.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        validation_data=(x[:70], y[:70]),
        restore_best_weights=False,
        sample_weight=weight,
    )
    parts = [*model.parameters().values(), model.predict(x)]
    parts += [history["loss"], history["val_loss"]]
    value, gradients = model.value_and_gradient(x, y, loss=loss, training=True, step=3)
    parts += [value, gradients.d_input, *gradients.values()]
    if quantization:
        quantized = model.quantize(x)
        parts += [*quantized.parameters().values(), quantized.predict(x)]
        alone = np.concatenate([quantized.predict(x[i : i + 1]) for i in range(0, rows, 40)])
        assert (alone == parts[-1][::40]).all()
    return model, b"".join(np.asarray(part).tobytes() for part in parts)


def digest(name, **options):
    return hashlib.sha256(train(name, **options)[1]).hexdigest()


def digests():
    return {name: digest(name) for name in NETWORKS}


@pytest.fixture(autouse=True)
def threads_as_before():
    before = rv.get_num_threads()
    yield
    rv.set_num_threads(before)


def run(*arguments, code=None, stdin=None, **environment):
    """Runs this file (or code) in a process of its own."""
    command = [sys.executable, "-c", code] if code else [sys.executable, __file__]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RANVIER_", "OMP_"))}
    return subprocess.run(
        [*command, *arguments],
        env=clean | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def isas():
    return rv.config()["available_isas"]


# ---------------------------------------------------------------- threads, instruction sets, runs


@pytest.fixture(scope="module")
def expected():
    return digests()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_threads_gives_the_same_bits(name, threads, expected):
    rv.set_num_threads(threads)
    assert rv.get_num_threads() == threads
    assert digest(name) == expected[name]


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name][-1] > 128])
def test_the_networks_are_large_enough_for_threads(name):
    """A step below 2^22 multiply-adds stays on one thread; ask the system whether it did."""
    code = (
        "import os, sys; sys.argv = ['', '3']\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_determinism as t, ranvier as rv\n"
        "rv.set_num_threads(3)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"t.train({name!r})\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = run(code=code)
    assert done.stdout.strip() == "2", done.stderr


@pytest.mark.parametrize(
    ("isa", "threads"),
    [("portable", 2), ("avx2", 1), ("avx2", 3), ("avx512", 1), ("avx512", 3)],
)
def test_any_instruction_set_gives_the_same_bits(isa, threads, expected):
    if isa not in isas():
        pytest.skip(f"this machine lacks {isa}")
    done = run("--print", RANVIER_ISA=isa, RANVIER_NUM_THREADS=str(threads))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["isa"] == isa
    assert found["threads"] == threads
    assert found["hashes"] == expected


def test_the_default_instruction_set_is_the_best(expected):
    done = run("--print")
    assert json.loads(done.stdout)["isa"] == isas()[-1]
    assert json.loads(done.stdout)["hashes"] == expected


def test_golden_hashes(expected):
    """What this numerics version computes, on any machine."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["numerics"] == rv.config()["numerics"]
    assert golden["hashes"] == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_edge_of_a_block_with_every_batch_size(width, dtype):
    """Widths around the edges of vectors, panels and tiles, each with short and long batches."""
    layers = [
        rv.Dense(width, activation="tanh"),
        rv.Dropout(0.2),
        rv.Dense(width, activation="relu"),
        rv.Dense(width),
    ]
    x, y = numbers(65, width), numbers(65, width, 1)
    for batch_size in (1, 7, 64, 65):
        found = set()
        for threads in (1, 3):
            rv.set_num_threads(threads)
            model = rv.Sequential(layers, input_size=width, dtype=dtype)
            model.fit(x, y, loss="mse", batch_size=batch_size)
            found.add(b"".join(v.tobytes() for v in model.parameters().values()))
        assert len(found) == 1


def test_large_products_on_many_threads():
    """Many tiles for each thread, with ragged edges in both directions."""
    x, y = numbers(517, 389), numbers(517, 5)
    found = set()
    for threads in (1, 2, 5, 8, 2):
        rv.set_num_threads(threads)
        model = rv.Sequential([*chain([401, 333]), rv.Dense(5)], input_size=389)
        trainer = rv.Trainer(model, loss="mse", optimizer=rv.Adam(clip_norm=1.0))
        trainer.fit(x, y, batch_size=400)
        found.add(model.predict(x).tobytes() + model.parameters()["1.weight"].tobytes())
    assert len(found) == 1


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["edges relu sgd", "normalized adamw", "normalized clipped"])
def test_a_row_is_predicted_alike_alone_in_any_batch_and_anywhere(name, dtype):
    model, _ = train(name)
    inputs = model.input_size
    x = numbers(700, inputs, 5).astype(dtype)
    whole = model.predict(x)
    for row in (0, 1, 63, 64, 255, 256, 511, 699):
        assert np.array_equal(model.predict(x[row : row + 1])[0], whole[row])
        for others in (1, 6, 15, 16, 17, 63, 64, 65, 257):
            for place in (0, others // 2, others):
                among = np.insert(numbers(others, inputs, 9).astype(dtype), place, x[row], axis=0)
                assert np.array_equal(model.predict(among)[place], whole[row])
    assert np.array_equal(model.predict(x[::-1]), whole[::-1])
    order = np.argsort(numbers(700, 1, 11)[:, 0])
    assert np.array_equal(model.predict(x[order]), whole[order])
    for threads in THREADS:
        rv.set_num_threads(threads)
        assert np.array_equal(model.predict(x), whole)


def test_the_order_of_keyword_arguments_and_the_run_do_not_matter():
    assert digest("normalized adamw") == digest("normalized adamw")
    a = rv.Adam(learning_rate=0.1, beta1=0.8)
    b = rv.Adam(beta1=0.8, learning_rate=0.1)
    assert a == b


# ---------------------------------------------------------------- seeds


def parameters(seed, dtype="float32"):
    model = rv.Sequential([*normalized(17), rv.Dense(2)], input_size=5, seed=seed, dtype=dtype)
    return b"".join(v.tobytes() for v in model.parameters().values())


def test_a_seed_is_a_model():
    seeds = [0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
    found = [parameters(seed) for seed in seeds]
    assert len(set(found)) == len(seeds)
    assert [parameters(seed) for seed in seeds] == found
    assert parameters(np.uint64(2**63)) == parameters(2**63)


def test_seeds_of_models_and_trainers_are_two_things():
    found = {
        digest_of(model_seed, trainer_seed) for model_seed in (0, 1) for trainer_seed in (0, 1)
    }
    assert len(found) == 4
    assert digest_of(0, 1) == digest_of(0, 1)


def digest_of(model_seed, trainer_seed):
    model = rv.Sequential(
        [rv.Dense(9), rv.Dropout(0.5), rv.Dense(1)], input_size=3, seed=model_seed
    )
    trainer = rv.Trainer(model, loss="mse", seed=trainer_seed)
    trainer.fit(numbers(20, 3), numbers(20, 1), batch_size=4)
    return b"".join(v.tobytes() for v in model.parameters().values())


def test_seed_none_is_drawn_anew():
    assert parameters(None) != parameters(None)


def test_both_dtypes_start_from_the_same_numbers():
    pair = [
        rv.Sequential(chain([70, 65]), input_size=17, seed=3, dtype=dtype).parameters()
        for dtype in DTYPES
    ]
    for name, value in pair[1].items():
        assert np.array_equal(pair[0][name], value.astype(np.float32))


def test_every_layer_draws_numbers_of_its_own():
    model = rv.Sequential(chain([16] * 6), input_size=16)
    weights = [v for n, v in model.parameters().items() if "weight" in n]
    assert len({w.tobytes() for w in weights}) == 6
    flat = np.concatenate([w.ravel() for w in weights])
    assert len(np.unique(flat)) > 0.99 * flat.size


# ---------------------------------------------------------------- the environment

USES = {
    "a model": "rv.Sequential([rv.Dense(1)], input_size=2)",
    "a first fit": "rv.Sequential([rv.Dense(1)]).fit([[1.0, 2.0]], [1.0], loss='mse')",
    "a loss": "rv.losses.MSE().value_and_gradient([[1.0]], [1.0])",
    "config": "rv.config()",
    "threads": "rv.get_num_threads()",
}
WRONG_ISAS = ["", "AVX2", " avx2", "neon", "avx2,fma"]
WRONG_THREADS = ["", "0", "-1", "1.5", "4097", "4,2", "two", "1e3", str(2**70)]
# RANVIER_NUM_THREADS, OMP_NUM_THREADS, and what they give; None is the machine's default.
THREADS_OF = [
    ("3", None, 3),
    ("3", "2", 3),
    (" 5 ", None, 5),
    ("4096", None, 4096),
    (None, "5", 5),
    (None, "4,2", 4),
    (None, " 6 , 2", 6),
    (None, "junk", None),
    (None, "0", None),
    (None, "-3", None),
    (None, "", None),
    (None, ",4", None),
    (None, str(2**70), None),
]

# One process imports ranvier; a fork of it for each case sets variables and uses ranvier first.
FORKS = """
import json, os, sys
import ranvier as rv

for environment, use in json.load(sys.stdin):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.environ.update(environment)
        try:
            outcome = ["accepted", repr(eval(use))]
        except BaseException as error:
            outcome = [type(error).__name__, str(error)]
        os.write(writing, json.dumps(outcome).encode() + b"\\n")
        os._exit(0)
    os.close(writing)
    print(os.fdopen(reading).read(), end="", flush=True)
    os.wait()
"""


def with_isa(value, use="a model"):
    return {"RANVIER_ISA": value}, USES[use]


def with_threads(value, openmp=None, use="threads"):
    given = {"RANVIER_NUM_THREADS": value, "OMP_NUM_THREADS": openmp}
    return {k: v for k, v in given.items() if v is not None}, USES[use]


def cases():
    for use in ("a model", "a first fit", "a loss", "config"):
        yield with_isa("sse9", use)
    for value in [*WRONG_ISAS, *{"portable", "avx2", "avx512"}]:
        yield with_isa(value)
    for use in ("a model", "a first fit", "config"):
        yield with_threads("many", use=use)
    for value in WRONG_THREADS:
        yield with_threads(value)
    for value, openmp, _ in THREADS_OF:
        yield with_threads(value, openmp)


@pytest.fixture(scope="module")
def outcome():
    """(class of the error or "accepted", message or repr) of a case."""
    every = list(cases())
    done = run(code=FORKS, stdin=json.dumps(every))
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    by_case = {json.dumps(case): tuple(o) for case, o in zip(every, found, strict=True)}
    return lambda case: by_case[json.dumps(case)]


@pytest.mark.parametrize("use", ["a model", "a first fit", "a loss", "config"])
def test_an_unknown_instruction_set_is_an_error_at_first_use(use, outcome):
    kind, message = outcome(with_isa("sse9", use))
    assert kind == "ArgumentError"
    assert message.startswith("RANVIER_ISA: ")
    assert "sse9" in message
    assert "portable" in message


@pytest.mark.parametrize("value", WRONG_ISAS)
def test_instruction_sets_by_their_exact_names(value, outcome):
    kind, message = outcome(with_isa(value))
    assert kind == "ArgumentError"
    assert message.startswith("RANVIER_ISA: ")


@pytest.mark.parametrize("value", ["portable", "avx2", "avx512"])
def test_an_instruction_set_that_the_machine_lacks_is_an_error(value, outcome):
    kind, message = outcome(with_isa(value))
    if value in isas():
        assert kind == "accepted"
    else:
        assert kind == "ArgumentError"
        assert message.startswith("RANVIER_ISA: ")


@pytest.mark.parametrize("use", ["a model", "a first fit", "config"])
def test_a_wrong_number_of_threads_is_an_error_at_first_use(use, outcome):
    kind, message = outcome(with_threads("many", use=use))
    assert kind == "ArgumentError"
    assert message.startswith("RANVIER_NUM_THREADS: ")
    assert "many" in message


@pytest.mark.parametrize("value", WRONG_THREADS)
def test_numbers_of_threads_are_integers_from_1_to_4096(value, outcome):
    kind, message = outcome(with_threads(value))
    assert kind == "ArgumentError"
    assert message.startswith("RANVIER_NUM_THREADS: ")
    assert "1 to 4096" in message


@pytest.mark.parametrize(("ranvier", "openmp", "count"), THREADS_OF)
def test_threads_come_from_the_environment(ranvier, openmp, count, outcome):
    expected = count or len(os.sched_getaffinity(0))
    assert outcome(with_threads(ranvier, openmp)) == ("accepted", str(expected))


def test_set_num_threads_comes_before_the_environment():
    code = (
        "import ranvier as rv\n"
        "rv.set_num_threads(3)\n"
        "print(rv.get_num_threads())\n"
        "rv.Sequential([rv.Dense(1)], input_size=2).predict([[1.0, 2.0]])\n"
    )
    done = run(code=code, RANVIER_NUM_THREADS="junk")
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


def test_affinity_limits_the_default():
    code = (
        "import os\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import ranvier as rv; print(rv.get_num_threads())"
    )
    assert run(code=code).stdout.strip() == "1"


def main():
    if "--write" in sys.argv:
        content = {"numerics": rv.config()["numerics"], "hashes": digests()}
        GOLDEN.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    elif "--print" in sys.argv:
        config = rv.config()
        content = {"isa": config["isa"], "threads": config["threads"], "hashes": digests()}
        sys.stdout.write(json.dumps(content))


if __name__ == "__main__":
    main()
