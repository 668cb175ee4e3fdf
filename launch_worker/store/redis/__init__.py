"""Speaks with Redis: clients, connections, the plain wire of `launch-submit`, and the scripts as Redis gets them."""
