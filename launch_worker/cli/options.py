"""Options that several commands have."""

from __future__ import annotations

import click

WIDE = click.option("--wide", is_flag=True, help="All columns, in lines as long as they are.")
