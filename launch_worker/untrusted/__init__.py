"""Handles what strangers wrote or made: JSON, texts for a terminal or a log, patterns, files and folders.

Whatever reads a job's, a submitter's or another account's data goes through here.
"""
