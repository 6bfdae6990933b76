"""A table of houses for the command line, and what its tests do with files."""

import csv
import io

import numpy as np

from ranvier.cli import main

ROWS = 240


def ranvier(capfd, *arguments, code=0):
    """What a command has written to stdout and stderr."""
    assert main(list(map(str, arguments))) == code
    return capfd.readouterr()


def table(rows=ROWS, seed=0):
    """Houses: numbers with holes, categories, a date, a truth value, and a price of all of them."""
    rng = np.random.default_rng(seed)
    towns = {"Lund": 3.0, "Oslo, N": 5.0, "Rome": 1.0}
    town = rng.choice(list(towns), rows)
    area = rng.uniform(20.0, 200.0, rows).round(1)
    garden = rng.random(rows) < 0.5
    days = rng.integers(0, 3000, rows)
    price = area * [towns[t] for t in town] + 100.0 * garden + 0.02 * days
    holes = rng.random(rows) < 0.1
    return {
        "town": town.tolist(),
        "area": [None if hole else value for hole, value in zip(holes, area.tolist(), strict=True)],
        "garden": garden.tolist(),
        "sold": [str(np.datetime64("2015-01-01") + int(day)) for day in days],
        "price": price.tolist(),
        "dear": np.where(price > np.median(price), "yes", "no").tolist(),
    }


def put(path, columns):
    """A CSV file of columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def column(text, name):
    return [row[name] for row in csv.DictReader(io.StringIO(text))]
