"""Writes Parquet files of any size in little memory: python parquet_writer.py PATH MEGABYTES"""

import sys

import numpy as np


def write_parquet(path, megabytes, *, features=64, group_rows=50_000, seed=0, noise=0.1):
    """A linear target with noise over normal features, float32, uncompressed.

    The features are columns "x0", "x1", ..., the target is "y". One row group is in memory at a
    time. Returns the number of rows and the coefficients.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=features).astype(np.float32) / np.float32(np.sqrt(features))
    rows = max(1, int(megabytes * 1e6) // (4 * (features + 1)))
    names = [*(f"x{number}" for number in range(features)), "y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, rows, group_rows):
            count = min(group_rows, rows - first)
            columns = rng.standard_normal((features, count), dtype=np.float32)
            y = coefficients @ columns
            y += np.float32(noise) * rng.standard_normal(count, dtype=np.float32)
            arrays = [pa.array(column) for column in (*columns, y)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=count)
    return rows, coefficients


if __name__ == "__main__":
    rows, _ = write_parquet(sys.argv[1], float(sys.argv[2]))
    print(f"{rows} rows")
