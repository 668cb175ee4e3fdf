"""Makes and changes the tables, one file a release's change, by Alembic."""
