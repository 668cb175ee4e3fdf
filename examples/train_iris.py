"""Train a softmax classifier on the Iris data: a job with a live log that needs nothing installed.

    launch-submit --follow -- python3 examples/train_iris.py --epochs 20

One sees the run's id, then a line for each epoch as it comes, with a loss that falls, then the final loss and accuracy.
Where workers have LAUNCH_OUTPUT_URL, as those of `launch-worker dev`, its model is kept, and fetched by
`launch-worker files @ --get results`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import time
from pathlib import Path
from statistics import fmean, pstdev
from typing import NamedTuple

DATA = Path(__file__).with_name("iris.csv")
VALIDATION_SHARE = 0.2
BATCH_SIZE = 8


class Flower(NamedTuple):
    features: list[float]
    label: int


class Model(NamedTuple):
    """One row of weights and one bias for each species."""

    weights: list[list[float]]
    biases: list[float]

    def probabilities(self, features: list[float]) -> list[float]:
        scores = [
            bias + sum(w * x for w, x in zip(row, features, strict=True))
            for row, bias in zip(self.weights, self.biases, strict=True)
        ]
        # the highest score is taken off first: exp() overflows above 709
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def step(self, batch: list[Flower], lr: float) -> float:
        """Take one gradient step and return the summed cross-entropy the batch had before it."""
        guesses = [self.probabilities(flower.features) for flower in batch]
        rate = lr / len(batch)
        for species, row in enumerate(self.weights):
            errors = [guess[species] - (f.label == species) for f, guess in zip(batch, guesses, strict=True)]
            for i in range(len(row)):
                row[i] -= rate * sum(e * f.features[i] for e, f in zip(errors, batch, strict=True))
            self.biases[species] -= rate * sum(errors)
        return -sum(math.log(max(g[f.label], 1e-12)) for f, g in zip(batch, guesses, strict=True))

    def accuracy(self, flowers: list[Flower]) -> float:
        hits = 0
        for flower in flowers:
            guess = self.probabilities(flower.features)
            hits += guess.index(max(guess)) == flower.label
        return hits / len(flowers)


def load(path: Path) -> list[Flower]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    species = sorted({row[-1] for row in rows})
    return [Flower([float(value) for value in row[:-1]], species.index(row[-1])) for row in rows]


def split(flowers: list[Flower], rng: random.Random) -> tuple[list[Flower], list[Flower]]:
    """Return training and validation flowers, with the same share of each species in both."""
    training: list[Flower] = []
    validation: list[Flower] = []
    for label in sorted({flower.label for flower in flowers}):
        group = [flower for flower in flowers if flower.label == label]
        rng.shuffle(group)
        cut = round(len(group) * VALIDATION_SHARE)
        validation += group[:cut]
        training += group[cut:]
    return training, validation


def standardise(flowers: list[Flower], like: list[Flower]) -> list[Flower]:
    """Scale each feature by the mean and the deviation that it has in `like`."""
    columns = list(zip(*(flower.features for flower in like), strict=True))
    scales = [(fmean(column), pstdev(column)) for column in columns]
    return [
        Flower([(x - mean) / spread for x, (mean, spread) in zip(features, scales, strict=True)], label)
        for features, label in flowers
    ]


def positive_float(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=positive_float, default=0.1, help="learning rate (default %(default)s)")
    parser.add_argument("--epochs", type=positive_int, default=30, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument(
        "--pause", type=seconds, default=0.05, help="seconds to wait after an epoch (default %(default)s)"
    )
    args = parser.parse_args()

    if run_id := os.environ.get("LAUNCH_RUN_ID"):
        print(f"run {run_id} attempt {os.environ.get('LAUNCH_ATTEMPT', '1')}", flush=True)

    rng = random.Random(args.seed)
    training, validation = split(load(DATA), rng)
    training, validation = standardise(training, training), standardise(validation, training)
    labels = {flower.label for flower in training}
    model = Model([[0.0] * len(training[0].features) for _ in labels], [0.0] * len(labels))

    loss = accuracy = math.nan
    for epoch in range(1, args.epochs + 1):
        rng.shuffle(training)
        batches = [training[i : i + BATCH_SIZE] for i in range(0, len(training), BATCH_SIZE)]
        loss = sum(model.step(batch, args.lr) for batch in batches) / len(training)
        accuracy = model.accuracy(validation)
        print(f"epoch {epoch}/{args.epochs} loss={loss:.4f} accuracy={accuracy:.4f}", flush=True)
        time.sleep(args.pause)
    print(f"final loss={loss:.4f} accuracy={accuracy:.4f}", flush=True)
    if left := os.environ.get("LAUNCH_OUTPUT_DIR"):
        # What is there at the end is kept with the run.
        (Path(left) / "model.json").write_text(json.dumps(model._asdict()), encoding="utf-8")
    if os.environ.get("LAUNCH_RUN_ID"):
        # A last line of JSON is the summary of a sweep's run.
        print(json.dumps({"loss": loss, "accuracy": accuracy}), flush=True)


if __name__ == "__main__":
    main()
