"""Train as PyTorch programs do, with `state_dict()`s in a checkpoint, and without PyTorch, so that it runs everywhere.

    launch-submit --name torch-style --retries 1 --follow -- python3 examples/torch_style.py --fails-after 12

The first attempt dies after epoch 12. The second one goes on there, and ends with the same weights as a training that
nothing has disturbed: model, optimizer and random numbers are all in the checkpoint. With PyTorch, `save` is
`torch.save`, `load` is `torch.load(path, weights_only=True)`, and the rest stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from typing import Any

from launch_worker import current_run


class Line:
    """A model: y = weight * x + bias."""

    def __init__(self) -> None:
        self.weight, self.bias = 0.0, 0.0

    def state_dict(self) -> dict[str, float]:
        return {"weight": self.weight, "bias": self.bias}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.weight, self.bias = state["weight"], state["bias"]


class Momentum:
    """An optimizer that has a state of its own."""

    def __init__(self, model: Line, lr: float = 0.05) -> None:
        self.model, self.lr, self.velocity = model, lr, [0.0, 0.0]

    def step(self, gradient: tuple[float, float]) -> None:
        self.velocity = [0.9 * old + new for old, new in zip(self.velocity, gradient, strict=True)]
        self.model.weight -= self.lr * self.velocity[0]
        self.model.bias -= self.lr * self.velocity[1]

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.velocity = state["velocity"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="default %(default)s")
    parser.add_argument("--fails-after", type=int, metavar="EPOCH", help="have the first attempt killed then")
    args = parser.parse_args()

    run = current_run()
    path = os.path.join(run.checkpoint_dir or ".", "last.pt")
    model, rng, epoch = Line(), random.Random(1), 0
    optimizer = Momentum(model)
    if run.is_resumed:
        state = load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.setstate((state["rng"][0], tuple(state["rng"][1]), state["rng"][2]))
        epoch = state["epoch"]
        print(f"goes on after epoch {epoch}", flush=True)
    while epoch < args.epochs:
        loss = train_one_epoch(model, optimizer, rng)
        epoch += 1
        run.log({"loss": loss}, step=epoch)
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save({**states, "rng": rng.getstate(), "epoch": epoch}, path)
        run.checkpoint()
        if epoch == args.fails_after and run.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    print(f"weight {model.weight!r}, bias {model.bias!r}", flush=True)


def train_one_epoch(model: Line, optimizer: Momentum, rng: random.Random) -> float:
    """Learn y = 3x + 1 from 20 points; returns the mean of the squared errors."""
    total = 0.0
    for _ in range(20):
        x = rng.uniform(-1, 1)
        error = model.weight * x + model.bias - (3 * x + 1)
        optimizer.step((error * x, error))
        total += error * error / 20
    return total


def save(state: dict[str, Any], path: str) -> None:
    """As torch.save, beside the old file, so that a kill leaves one of the two, and whole."""
    with open(path + ".tmp", "w") as file:
        json.dump(state, file)
    os.replace(path + ".tmp", path)


def load(path: str) -> dict[str, Any]:
    """As torch.load."""
    with open(path) as file:
        state: dict[str, Any] = json.load(file)
    return state


if __name__ == "__main__":
    main()
