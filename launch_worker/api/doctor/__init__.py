"""Finds what is wrong with an installation, and says what to do: a module for each thing that is looked at."""
