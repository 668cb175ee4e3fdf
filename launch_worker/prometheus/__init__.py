"""Tells Prometheus how the system and each worker are: what is measured, and the text that is scraped."""
