"""Banks: named sets of templates.

bank    the shipped banks, each a formula at any size, and banks from files
files   the file formats: npy, csv, txt, json, toml
store   the tables ``banks`` and ``templates`` of a database
"""

from __future__ import annotations

from filterdb.banks.bank import CENTRED, Bank, load, read, shipped, write

__all__ = ["CENTRED", "Bank", "load", "read", "shipped", "store", "write"]
