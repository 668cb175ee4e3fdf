"""Mends what nobody else is left to mend: the passes over the records, and the schedules that submit runs again.

Beat does the passes, and a worker does them when beat is late. Each pass is bounded, and doing one twice is harmless.
"""
