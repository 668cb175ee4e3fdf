"""Brings a run's code to its worker: sends a folder from the submitter, fetches a commit with git, unpacks, caches.

Strangers made what is read here: sizes, paths and times are bounded, and git and unpacking run as child processes.
"""
