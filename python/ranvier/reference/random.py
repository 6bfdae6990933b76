"""Randomness by counting: every number is a function of what it is for, never of when it is drawn.

The generator is Philox4x32-10. It scrambles a counter of four 32-bit words under a key of two:
the key is the seed, the counter says (block, epoch, purpose and layer). Nothing depends on the
order of the draws.

Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from typing import TypeAlias

from .normal import inverse_normal_cdf

Block: TypeAlias = tuple[int, int, int, int]

WEIGHT_INITIALISATION = 1
BIAS_INITIALISATION = 2
SHUFFLE = 3
DROPOUT = 4
NOISE = 6
BLOCKS = 7

_WORD = 0xFFFF_FFFF


def philox4x32(counter: Block, key: tuple[int, int]) -> Block:
    """Philox4x32-10: four scrambled 32-bit words.

    A round takes (c0, c1, c2, c3) to (hi(B c2) ^ c1 ^ k0, lo(B c2), hi(A c0) ^ c3 ^ k1, lo(A c0)),
    hi and lo being the upper and the lower half of a 64-bit product. There are ten rounds, and
    the key grows by two constants between them.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first = 0xD251_1F53 * c0
        second = 0xCD9E_8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & _WORD,
            (first >> 32) ^ c3 ^ k1,
            first & _WORD,
        )
        k0 = (k0 + 0x9E37_79B9) & _WORD
        k1 = (k1 + 0xBB67_AE85) & _WORD
    return c0, c1, c2, c3


def check_seed(seed: int) -> int:
    """A seed is a whole number of 64 bits."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in 0 .. 2**64 - 1, got {seed}")
    return seed


class Stream:
    """An endless row of random numbers, each reached by its index i.

    Args:
        seed: the key, 0 <= seed < 2^64.
        purpose: one of the six constants of this module.
        layer: index of the layer in its Sequential; for the shuffle the place of the block.
        epoch: the epoch; 0 for initialisation.
    """

    def __init__(self, seed: int, purpose: int, *, layer: int = 0, epoch: int = 0) -> None:
        check_seed(seed)
        self._key = (seed & _WORD, seed >> 32)
        self._tail = (epoch & _WORD, purpose << 16 | layer)
        self._latest: tuple[int, Block] = (-1, (0, 0, 0, 0))

    def block(self, index: int) -> Block:
        """Words 4 * index to 4 * index + 3. The latest block is kept: neighbours share one."""
        if self._latest[0] != index:
            counter = (index & _WORD, index >> 32, *self._tail)
            self._latest = (index, philox4x32(counter, self._key))
        return self._latest[1]

    def word32(self, i: int) -> int:
        """A whole number below 2^32: word i % 4 of block i // 4."""
        return self.block(i // 4)[i % 4]

    def word64(self, i: int) -> int:
        """A whole number below 2^64: half i % 2 of block i // 2, the low word first."""
        words = self.block(i // 2)
        low = 2 * (i % 2)
        return words[low] | words[low + 1] << 32

    def uniform(self, i: int) -> float:
        """A number in [0, 1), a multiple of 2^-53."""
        return (self.word64(i) >> 11) * 2.0**-53

    def open_uniform(self, i: int) -> float:
        """A number in (0, 1), neither end included."""
        return ((self.word64(i) >> 11) + 0.5) * 2.0**-53

    def normal(self, i: int) -> float:
        """A standard normal number: the inverse distribution function of a uniform one."""
        return inverse_normal_cdf(self.open_uniform(i))


def permutation(
    rows: int, *, seed: int, epoch: int, purpose: int = SHUFFLE, block: int = 0
) -> list[int]:
    """The order in which an epoch visits the rows (Fisher and Yates).

    With BLOCKS for the purpose it is the order of the blocks of data that comes in blocks, and
    `block`, the place of a block in its epoch, then draws the order of its rows.

    For i = rows - 1 down to 1, item i changes places with item j = floor(r (i + 1) / 2^64),
    r being the next 64-bit word; 0 <= j <= i.
    """
    stream = Stream(seed, purpose, layer=block, epoch=epoch)
    order = list(range(rows))
    for draw, i in enumerate(range(rows - 1, 0, -1)):
        j = (stream.word64(draw) * (i + 1)) >> 64
        order[i], order[j] = order[j], order[i]
    return order


def noise(stream: Stream, *, position: int, units: int) -> list[float]:
    """Standard normal numbers for one row.

    A unit with the word w gets the number below which a normal one is with probability
    (w + 1/2) / 2^32.

    Args:
        stream: the stream with purpose NOISE of this seed, layer and epoch.
        position: the row's place in the order of its epoch.
        units: width of the layer; words as in `dropout_mask`.
    """
    start = 4 * position * ((units + 3) // 4)
    words = [stream.word32(start + unit) for unit in range(units)]
    return [inverse_normal_cdf((word + 0.5) * 2.0**-32) for word in words]


def dropout_mask(stream: Stream, *, position: int, units: int, rate: float) -> list[bool]:
    """Which units of one row are kept.

    Args:
        stream: the stream with purpose DROPOUT of this seed, layer and epoch.
        position: the row's place in the order of its epoch, counted from 0 through all batches.
        units: width of the layer. A row owns ceil(units / 4) blocks, unit u has the word u.
        rate: a unit is kept if its word is at least floor(rate 2^32).
    """
    threshold = int(rate * 2**32)
    start = 4 * position * ((units + 3) // 4)
    return [stream.word32(start + unit) >= threshold for unit in range(units)]
