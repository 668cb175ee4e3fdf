"""Celery's side: the app, its tasks, and the worker as Celery runs it. `celery -A launch_worker` finds `app` here."""

from launch_worker.celery.application import app

# Registers the bootsteps and signals of the app, and its remote control.
from launch_worker.celery import remote, steps  # noqa: F401  # isort: skip

__all__ = ["app"]
