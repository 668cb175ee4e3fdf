"""Which queues a worker leaves alone, and that its heartbeat does not wait for trials of its machine."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch_worker.agent import enforcement
from launch_worker.agent.enforcement import Enforcement
from launch_worker.queues.confinement import Demands
from launch_worker.queues.queue import QueueConfig
from launch_worker.runners.process.layers import Layers
from tests.conftest import wait_until


class SlowLayers(Layers):
    """Layers whose trial takes until somebody lets it end."""

    def __init__(self) -> None:
        super().__init__(Path("/"))
        self.may_end = threading.Event()
        self.trials = 0
        self.why = ""

    def why_not(self, demands: Demands) -> str:
        self.trials += 1
        assert self.may_end.wait(30.0)
        return self.why


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> SlowLayers:
    monkeypatch.setattr(enforcement, "_PATIENCE_S", 0.05)
    return SlowLayers()


def of(layers: Layers, **configs: QueueConfig) -> Enforcement:
    store: Any = SimpleNamespace(queue_configs=lambda _: {name: made.to_json() for name, made in configs.items()})
    return Enforcement(store=store, layers=layers, wake=lambda: None, starts_root=True)


def test_a_queue_is_refused_while_its_layers_are_tried_and_the_heartbeat_goes_on(layers: SlowLayers) -> None:
    made = of(layers, free=QueueConfig(), lab=QueueConfig(sandbox="private"))
    try:
        assert made.look(["free", "lab"])
        assert not made.look(["free", "lab"])
        assert set(made.refused) == {"lab"}
        assert "still being tried" in made.refused["lab"]
    finally:
        layers.may_end.set()
    wait_until(lambda: made.look(["free", "lab"]), what="the trial has ended")
    assert made.refused == {}
    assert layers.trials == 1


def test_a_queue_stays_admitted_while_its_layers_are_tried_again(layers: SlowLayers) -> None:
    layers.may_end.set()
    made = of(layers, lab=QueueConfig(run_as="jobs"))
    wait_until(lambda: not made.look(["lab"]) and made.refused == {})
    layers.may_end.clear()
    layers.why = "there is no account 'jobs'"
    made.note_news()
    try:
        assert not made.look(["lab"])
        assert made.refused == {}
    finally:
        layers.may_end.set()
    wait_until(lambda: made.look(["lab"]), what="the trial has ended")
    assert "no account" in made.refused["lab"]


def test_a_trial_that_fails_refuses_the_queue_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Layers, demands: Demands) -> str:
        raise OSError("the directory is away")

    monkeypatch.setattr(Layers, "why_not", fail)
    made = of(Layers(Path("/")), lab=QueueConfig(run_as="jobs"))
    wait_until(lambda: made.look(["lab"]))
    assert "the directory is away" in made.refused["lab"]


def test_damaged_settings_of_a_queue_stop_no_heartbeat() -> None:
    """Its runs fail at the claim, with a sentence."""
    store: Any = SimpleNamespace(queue_configs=lambda _: {"odd": '{"signers": 7}'})
    made = Enforcement(store=store, layers=Layers(Path("/")), wake=lambda: None, starts_root=True)
    assert not made.look(["odd"])
    assert made.refused == {}
