"""Keeps the old name of `startup` for one release: the entry point of older installations names it."""

from launch_worker.startup import SERIALIZER as SERIALIZER
