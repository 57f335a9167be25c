"""The methods for banks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filterdb import banks
from filterdb.banks import Bank
from filterdb.database.base import Base


class BankVerbs(Base):
    """Banks by name: those that ship, and those of this database."""

    def banks(self) -> list[str]:
        """The names of all banks: those that ship, then those of this database."""
        return self._banks.names()

    def bank(self, name: str, *, size: str | int | None = None, **options: Any) -> Bank:
        """A bank by name, at its own size or scaled to another; options are those of ``filterdb.banks.load``."""
        return self._banks.load(name, size, **options)

    def import_bank(self, bank: Bank | str | os.PathLike[str], *, name: str | None = None, **options: Any) -> Bank:
        """Keep a bank in this database: one in memory, or a file (npy, csv, txt, json; options of ``filterdb.banks.read``)."""
        self._writable()
        made = bank if isinstance(bank, Bank) else banks.read(Path(bank), name=name, **options)
        self._banks.put(made)
        return made

    def remove_bank(self, name: str) -> None:
        """Remove an imported bank; those that ship stay."""
        self._writable()
        self._banks.remove(name)
