"""Tolsey: a market for training in which money moves only for work that anybody can run again."""

from __future__ import annotations

__version__ = "0.1.0"
