"""Runs jobs as containers of a Docker Engine, or of Podman's compatible socket; they outlive their worker.

The engine's SDK is imported here only, when a worker gets its first container job.
"""
