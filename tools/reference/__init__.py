"""Writes the pages of docs/reference that the code decides: `make reference`; a test compares them."""
