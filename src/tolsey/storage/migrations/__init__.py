"""The history of the database's shape, one numbered file per step; run by storage/engine.py at every opening."""
