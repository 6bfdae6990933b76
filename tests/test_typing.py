"""The types that users see are those of the program."""

import subprocess
import sys
from importlib.resources import files


def test_the_stub_of_the_extension_is_that_of_the_binary():
    command = [sys.executable, "-m", "mypy.stubtest", "ranvier._core"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_says_that_it_is_typed():
    assert (files("ranvier") / "py.typed").is_file()


def test_a_typed_program_checks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "import ranvier as rv\n"
        "model = rv.Sequential([rv.Dense(4, activation='relu'), rv.Dense(2)], input_size=3)\n"
        "history: rv.History = model.fit(np.eye(3), [0, 1, 0], loss='cross_entropy')\n"
        "value, gradients = model.value_and_gradient(\n"
        "    np.eye(3), [0, 1, 0], loss=rv.losses.CrossEntropy()\n"
        ")\n"
        "rv.Adam(learning_rate=1e-3).step(model, gradients)\n"
        "loaded = rv.load('model.safetensors')\n"
        "rv.Trainer(loaded, loss='mse').fit(np.eye(3), np.eye(3))\n"
        "small: rv.QuantizedSequential = loaded.quantize(np.eye(3))\n"
        "if isinstance(loaded, rv.QuantizedSequential):\n"
        "    numbers: tuple[int, ...] = loaded.integer_layers\n"
        "total: float = value + float(gradients.d_input.sum())\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
