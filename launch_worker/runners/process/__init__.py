"""Runs jobs as processes: the guard that is their parent, the worker's side of it, and the tree of a job's processes.

The guard is a program of its own. It and what it imports need the standard library only.
"""
