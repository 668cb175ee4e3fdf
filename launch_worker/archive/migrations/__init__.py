"""Makes and changes the archive's tables, one file a release's change, by Alembic."""
