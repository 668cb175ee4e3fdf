"""Runs one worker: takes runs as its capacity allows, renews their leases, adopts what earlier workers left, stops.

What concerns a worker as a whole belongs here. What concerns one attempt is in `attempt`; how Celery starts and feeds
a worker is in `celery`.
"""
