"""Defines `schema`: prints the published format of items."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.model.item_schema import item_schema


@click.command(epilog="Example: launch-worker schema > item.schema.json")
def schema_command() -> None:
    """Print the JSON Schema of an item, what a run is to do, and its version."""
    terminal.echo_json(item_schema(), indent=2)
