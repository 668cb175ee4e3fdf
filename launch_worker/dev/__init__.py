"""Starts a whole launch system on one machine for `launch-worker dev`: a private Redis, a worker, beat, the server."""
