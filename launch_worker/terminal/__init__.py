"""Prints for all commands: texts of others made harmless, tables as wide as the terminal, JSON for machines."""

from launch_worker.terminal.cells import cut, wrapped
from launch_worker.terminal.job_output import JobOutput
from launch_worker.terminal.pairs import commands, facts
from launch_worker.terminal.say import Styled, echo_json, has_colours, joined, put, say, styled
from launch_worker.terminal.screen import Screen
from launch_worker.terminal.states import counted, state, state_cell
from launch_worker.terminal.tables import Column, Table, Tailed, tell
from launch_worker.terminal.tables import print_table as table
from launch_worker.terminal.times import age, ago, run_time, when

__all__ = [
    "Column",
    "JobOutput",
    "Screen",
    "Styled",
    "Table",
    "Tailed",
    "age",
    "ago",
    "commands",
    "counted",
    "cut",
    "echo_json",
    "facts",
    "has_colours",
    "joined",
    "put",
    "run_time",
    "say",
    "state",
    "state_cell",
    "styled",
    "table",
    "tell",
    "when",
    "wrapped",
]
