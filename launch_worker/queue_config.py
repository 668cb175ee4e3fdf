"""What an admin configures of a queue: which resource runs its jobs, and what its containers may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launch_worker.containers import ContainerPlan, check_queue, plan
from launch_worker.errors import InputError
from launch_worker.spec import RunSpec

RESOURCES = ("process", "container")
_MAX_DESCRIPTION = 1000


@dataclass(frozen=True)
class QueueConfig:
    """Constructing one validates it. Trusted by workers: whoever may write it may reach their machines."""

    #: What runs the queue's jobs; '' leaves it to each run: a container when it names an image, else a process.
    resource: str = ""
    #: Settings of the queue's containers, as `launch_worker.containers` names them.
    container: dict[str, Any] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if self.resource and self.resource not in RESOURCES:
            raise InputError(f"resource {self.resource!r} is unknown; use one of: {', '.join(RESOURCES)}")
        if not isinstance(self.description, str) or len(self.description) > _MAX_DESCRIPTION:
            raise InputError(f"the description must be a text of at most {_MAX_DESCRIPTION} characters")
        check_queue(self.container)

    @classmethod
    def from_json(cls, text: str) -> QueueConfig:
        """'' is no configuration. Raises InputError for what is damaged, or of a newer release."""
        if not text:
            return cls()
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"the queue's configuration is damaged: {error}") from None

    def to_json(self) -> str:
        kept = {"resource": self.resource, "container": self.container, "description": self.description}
        return json.dumps({name: value for name, value in kept.items() if value}, sort_keys=True)

    def container_plan(self, spec: RunSpec) -> ContainerPlan | None:
        """What the run's container is made with; None when the run is a process.

        Raises InputError when the run does not fit the queue.
        """
        asked = bool(spec.image) or spec.asks_for_container
        if self.resource == "process" and asked:
            raise InputError(f"queue {spec.queue!r} runs processes; {_names(spec)} would need a container queue")
        if self.resource != "container" and not spec.image:
            if asked:
                raise InputError(f"{_names(spec)} can be kept for containers only; name an image with --image IMAGE")
            return None
        return plan(
            image=spec.image, submitted=spec.container, queue=self.container, memory=spec.memory, cpus=spec.cpus
        )

    def changed(self, **settings: Any) -> QueueConfig:
        """With these settings instead; container settings one by one, None takes one away."""
        container = dict(self.container)
        for name, value in dict(settings.pop("container", None) or {}).items():
            container[name] = value
        kept = {name: value for name, value in container.items() if value is not None}
        given = {name: value for name, value in settings.items() if value is not None}
        return QueueConfig(**{"resource": self.resource, "description": self.description} | given | {"container": kept})


def parse_settings(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Container settings as typed on a command line: JSON where it is JSON, else text; empty takes one away."""
    parsed: dict[str, Any] = {}
    for name, text in pairs.items():
        try:
            parsed[name] = json.loads(text) if text else None
        except ValueError:
            parsed[name] = text
    return parsed


def _names(spec: RunSpec) -> str:
    asked = [name for name in ("image", "memory", "cpus") if getattr(spec, name)]
    return " and ".join(f"--{name}" for name in asked) or f"container option {next(iter(spec.container))!r}"
