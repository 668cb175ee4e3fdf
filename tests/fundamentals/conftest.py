"""The system that each test here starts: a Redis with nothing in it, and the workers that the test asks for."""

from __future__ import annotations

from tests.system.conftest import cluster

__all__ = ["cluster"]
