"""Keeps attempts' whole output as compressed segments in a folder or bucket, and reads it beside Redis' newest part.

What belongs here: the format of segments and manifests, the thread by which a worker writes them, and the reader.
"""
