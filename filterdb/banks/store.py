"""The banks of a database: those that ship with filterdb, and those its user imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from filterdb.banks.bank import Bank
from filterdb.banks.formulas import load, shipped
from filterdb.errors import BankError, InvalidArgument, StoreError, not_found
from filterdb.kernels.sizes import parse_size, shape_of, split
from filterdb.store import Collection, Place, Snapshot, schema
from filterdb.store.collection import slug

BANKS = schema.table(
    bank=pa.string(), kernel_h=pa.int32(), kernel_w=pa.int32(), size=pa.string(), templates=pa.int32(), citation=pa.string(),
    made_by=pa.string(), scalable=pa.bool_(), shipped=pa.bool_(),
)  # fmt: skip
TEMPLATES = schema.table(
    bank=pa.string(), template=pa.string(), number=pa.int32(), label=pa.string(), size=pa.string(), kernel_h=pa.int32(),
    kernel_w=pa.int32(), kernel=pa.list_(pa.field("element", pa.float32())),
)  # fmt: skip


class BankStore:
    """Banks by name. The shipped ones cannot be replaced; the imported ones are the collection ``banks``, ``templates``."""

    def __init__(self, root: Place):
        self.collection = Collection(root, {"banks": BANKS, "templates": TEMPLATES})

    def names(self) -> list[str]:
        """Shipped banks, then imported ones."""
        return [*shipped(), *sorted(self.imported())]

    def load(self, name: str, size: str | int | None = None, **options: Any) -> Bank:
        """A bank by name, at its own size or scaled to another."""
        if name in shipped():
            return load(name, size=size, **options)
        snapshot = self.collection.snapshot()
        if slug(name) not in snapshot.editions:
            raise not_found("bank", name, self.names())
        if options:
            raise InvalidArgument(f'The bank "{name}" was imported: it has no option {min(options)}.')
        try:
            bank = self._read(snapshot, slug(name))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f'The bank "{name}" is damaged. Run filterdb verify --repair, then import it again.') from error
        return bank if size is None else bank.at(size)

    def put(self, bank: Bank) -> None:
        """Keep a bank, replacing an imported one of its name."""
        if bank.name in shipped():
            raise BankError(f'The name "{bank.name}" belongs to a bank that ships with filterdb. Give another with --name.')
        with self.collection.stage() as stage:
            stage.write("banks", [_heads([(bank, False)])], BANKS)
            stage.write("templates", [_templates(bank)], TEMPLATES)
            stage.commit(bank.name)

    def remove(self, name: str) -> None:
        """Remove an imported bank."""
        if name in shipped():
            raise BankError(f'The bank "{name}" ships with filterdb and cannot be removed.')
        if not self.collection.remove(name):
            raise not_found("bank", name, self.imported(), advice="Only imported banks can be removed.")

    def imported(self) -> dict[str, Bank]:
        """The imported banks by name; damaged ones are left to ``filterdb verify``."""
        snapshot = self.collection.snapshot()
        found = {}
        for key in snapshot.editions:
            try:
                bank = self._read(snapshot, key)
            except (OSError, pa.ArrowException, BankError):
                continue
            found[bank.name] = bank
        return found

    def _read(self, snapshot: Snapshot, key: str) -> Bank:
        heads, rows = (self.collection.read(table, key, snapshot.editions[key]) for table in ("banks", "templates"))
        head, table = heads.to_pylist()[0], rows.sort_by("number").to_pylist()
        kernels = np.array([row["kernel"] for row in table], np.float32)
        return Bank(
            name=head["bank"],
            names=[row["template"] for row in table],
            labels=[row["label"] for row in table],
            templates=kernels.reshape(len(table), *shape_of(*parse_size(head["size"]))),
            citation=head["citation"] or "",
            made_by=head["made_by"] or "",
        )

    def tables(self) -> dict[str, tuple[Callable[[], pa.Table], pa.Schema]]:
        """``banks`` and ``templates`` as SQL sees them, all banks at their own size; each made when it is asked for."""

        def every() -> list[tuple[Bank, bool]]:
            return [(load(name), True) for name in shipped()] + [(bank, False) for bank in self.imported().values()]

        return {
            "banks": (lambda: _heads(every()), BANKS),
            "templates": (lambda: pa.concat_tables([_templates(bank) for bank, _ in every()]), TEMPLATES),
        }


def _heads(every: list[tuple[Bank, bool]]) -> pa.Table:
    rows = [
        {
            "bank": bank.name, "kernel_h": split(bank.kernel_h)[1], "kernel_w": bank.kernel_w, "size": bank.size,
            "templates": len(bank),
            "citation": bank.citation, "made_by": bank.made_by, "scalable": shipped, "shipped": shipped,
        }
        for bank, shipped in every
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, BANKS)


def _templates(bank: Bank) -> pa.Table:
    rows = [
        {
            "bank": bank.name, "template": name, "number": number, "label": label, "size": bank.size,
            "kernel_h": split(bank.kernel_h)[1], "kernel_w": bank.kernel_w, "kernel": bank.templates[number].ravel(),
        }
        for number, (name, label) in enumerate(zip(bank.names, bank.labels, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, TEMPLATES)
