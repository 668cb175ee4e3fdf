"""Knows the people of a server: who they are, how they prove it, and which role lets them do what."""
