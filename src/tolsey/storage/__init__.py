"""What must survive a power cut: tables (engine.py, tables.py), transactions to send (outbox.py), contents (blobs.py).

The only importer of SQLAlchemy's engine. It knows no chain and no peer. Start with engine.py.
"""
