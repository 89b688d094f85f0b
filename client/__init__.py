"""The buyer: `tolsey`, the command, and `tolsey.Market`, the same as a library.

Reading order: spec.py (what is asked for), buying.py (asking, planning, locking the money), plan.py (the choice),
serve.py (following), fetch.py (the result), audit.py (doubt). market.py is the SDK, commands/ the command line.
"""
