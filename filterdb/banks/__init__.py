"""Banks: named sets of templates.

bank      a bank: named templates, and their formula for other sizes
jets      banks of sums of Gaussian derivatives, as toml files give them
formulas  the banks that ship, and banks from files
files     the file formats: npy, csv, txt, json, toml
store     the tables ``banks`` and ``templates`` of a database
"""

from __future__ import annotations

from filterdb.banks.bank import CENTRED, Bank
from filterdb.banks.formulas import load, read, shipped, write

__all__ = ["CENTRED", "Bank", "load", "read", "shipped", "store", "write"]
