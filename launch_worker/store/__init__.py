"""Keeps the record: one method for each change of a run, and one Lua script for each method.

Key names and their owners belong here, and whatever must happen in one step. Decisions from facts are in `model`.
"""
