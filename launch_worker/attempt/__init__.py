"""Carries one attempt from its claim to its outcome: prepares it, fetches its code, starts and supervises its job.

The attempt's folder, its environment, its output and its talk belong here. Whether and when a run is tried again is
decided in `model.retry`, and how a process or a container is ended in `runners`.
"""
