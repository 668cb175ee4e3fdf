"""The name of `startup` in installations made before it moved: their entry point names it until they are made anew."""

from launch_worker.startup import SERIALIZER as SERIALIZER
