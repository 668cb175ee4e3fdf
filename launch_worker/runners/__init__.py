"""Starts, watches and ends what runs: processes through a guard, containers through an engine.

`runners.job` is the contract that both kinds fulfil. A runner knows no queues and no retries; only the program
`end_container` reaches Redis.
"""
