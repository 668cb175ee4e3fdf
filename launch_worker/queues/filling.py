"""Fills a run's spec from the configuration of its queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launch_worker.errors import InputError

if TYPE_CHECKING:
    from launch_worker.model.run import Record
    from launch_worker.model.spec import RunSpec
    from launch_worker.queues.queue import QueueConfig
from launch_worker.model.macros import fill_text, has_macros


def macros_of(
    record: Record, spec: RunSpec, *, config: QueueConfig, worker_env: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Every macro of a claimed run: its values, the worker's variables that its queue allows, and the system's own.

    A macro without a value (a project that was not named, a variable that the worker lacks) is None.
    """
    entity, slash, project = record.project.rpartition("/")
    own: dict[str, Any] = {
        "run_id": record.id,
        "project_name": project or None,
        "entity_name": entity if slash else None,
        "run_name": record.name,
        "author": spec.author or None,
        "queue": record.queue,
        "attempt": str(record.attempt),
    }
    macros = {**values, **{name: worker_env.get(name) for name in config.macro_env}, **own}
    image = spec.image or (config.container.get("image", "") if config.resource == "container" else "")
    return macros | {"image_uri": fill_text(image, macros) or None}


def spec_has_macros(spec: RunSpec) -> bool:
    """Whether `fill_spec` might change it."""
    texts = (*spec.command, *spec.env.values(), spec.cwd or "", spec.image, spec.uri)
    return any("${" in text and has_macros(text) for text in texts)


def fill_spec(spec: RunSpec, macros: Mapping[str, Any]) -> RunSpec:
    """The spec with its command, environment, folder, image and code filled in. Raises InputError.

    The result is checked as a submitted run is: a filled-in text cannot make another kind of git URL, or a path that
    leads out of the code.
    """
    if not spec_has_macros(spec):
        return spec
    from launch_worker.model.container_options import IMAGE
    from launch_worker.model.git_url import parse_git_url

    image = fill_text(spec.image, macros)
    if image and not IMAGE.fullmatch(image):
        raise InputError(f"image {image[:60]!r}, with its macros filled, is not the name of an image")
    uri = fill_text(spec.uri, macros)
    if uri:
        parse_git_url(uri)
    return replace(
        spec,
        command=tuple(fill_text(argument, macros) for argument in spec.command),
        env={name: fill_text(text, macros) for name, text in spec.env.items()},
        cwd=None if spec.cwd is None else fill_text(spec.cwd, macros),
        image=image,
        uri=uri,
    )
