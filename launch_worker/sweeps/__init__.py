"""Searches hyperparameters: a sweep's configuration, the space of its parameters, the next trial, early stops.

The search computes from the record what comes next; `sweeps.drive` alone reads and writes the record.
"""
