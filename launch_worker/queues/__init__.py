"""Says what an admin configures of queues and pools, and what that makes of a run's spec.

The checks, defaults, template variables and macros belong here. Where a run waits is decided in `store/lua`.
"""
