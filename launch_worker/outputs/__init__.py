"""Keeps what jobs leave behind, as files, in a folder or bucket: content by its hash, and manifests that name it.

What belongs here: the format of manifests, the way of a folder into the store and back, and who sends it.
"""
