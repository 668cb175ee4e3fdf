"""Holds what Python users and the commands work with: runs, sweeps, queues and the problems of an installation.

Reading, waiting and steering belong here. How a run is put in is in `submission`; how a command prints is in `cli`.
"""
