"""Defines the commands `launch-submit` and `launch-worker`, one module a command; none is imported before it is called.

Reading options and printing belong here, and nothing that Python users need too: that is in `api` and `submission`.
"""
