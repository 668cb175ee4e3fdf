"""A run's code: sent by its submitter, or fetched by its worker with git."""
