"""Says what is true of a run: values and decisions, without Redis, processes or a clock.

A function here gets facts and returns a value. What reads or changes the world is in a layer above.
"""
