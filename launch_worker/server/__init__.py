"""Serves a team over HTTP: the API, who may do what, Celery's page behind the same login, the archive inside."""
