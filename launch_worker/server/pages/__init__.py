"""Serves the pages for people: each asks what the API's routes ask, and shows it as HTML."""
