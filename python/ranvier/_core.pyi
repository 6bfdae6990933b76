"""Types of the extension module; private, see the classes of the package."""

from typing import Any, Final, final

from numpy.typing import NDArray

_Array = NDArray[Any]
_Table = list[tuple[str, list[int]]]
_Loss = tuple[str, list[float]] | dict[str, Any]

__all__ = [
    "NUMERICS_VERSION",
    "OPTIMIZED",
    "Network",
    "Stepper",
    "Trainer",
    "__version__",
    "available_isas",
    "check_optimizer",
    "get_num_threads",
    "isa",
    "loss_value_and_gradient",
    "names",
    "set_num_threads",
]

__version__: Final[str]
NUMERICS_VERSION: Final[int]
OPTIMIZED: Final[bool]

def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def names(kind: str) -> list[str]: ...
def check_optimizer(optimizer: dict[str, Any]) -> None: ...
def loss_value_and_gradient(
    loss: tuple[str, list[float]], arrays: dict[str, _Array | None], d_output: _Array
) -> float: ...

@final
class Network:
    def __new__(
        cls, layers: list[dict[str, Any]], input_size: int, seed: int, dtype: str
    ) -> Network: ...
    @property
    def output_size(self) -> int: ...
    def count(self) -> int: ...
    def duplicate(self) -> Network: ...
    def tables(self) -> tuple[_Table, _Table]: ...
    def read(self, arrays: list[_Array]) -> None: ...
    def write(self, values: list[tuple[int, _Array]]) -> None: ...
    def predict(self, x: _Array, out: _Array) -> None: ...
    def evaluate(
        self, arrays: dict[str, _Array | None], loss: _Loss
    ) -> tuple[float, float | None]: ...
    def value_and_gradient(
        self,
        arrays: dict[str, _Array | None],
        loss: _Loss,
        training: bool,
        seed: int,
        step: int,
        arrays_out: list[_Array],
        d_input: _Array,
    ) -> float: ...

@final
class Trainer:
    def __new__(cls, network: Network, optimizer: dict[str, Any], seed: int) -> Trainer: ...
    def fit(self, plan: dict[str, Any]) -> None: ...
    def progress(self) -> tuple[int, int] | None: ...

@final
class Stepper:
    def __new__(cls, network: Network, optimizer: dict[str, Any]) -> Stepper: ...
    @property
    def steps(self) -> int: ...
    def step(self, gradients: list[_Array]) -> None: ...
    def follows(self, network: Network) -> bool: ...
