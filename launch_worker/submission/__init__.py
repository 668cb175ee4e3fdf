"""Turns what a person gave (options, lines of a file, arrays) into checked runs, and has the store create them.

`launch-submit` imports this, and a person waits for that: nothing here imports Celery, and redis-py only on demand.
"""
