"""Checkpoints whose keys are another project's names of a timm architecture: by the tables in ``data/names``, or by order."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from filterdb.share import folder

if TYPE_CHECKING:
    from torch import nn

COUNTER = "num_batches_tracked"
"""A number beside the statistics of a batch norm, which old files lack and nothing is computed from."""


@dataclass(frozen=True)
class Names:
    """One project's names for parts of timm's architectures; see ``data/names``."""

    title: str
    architectures: Sequence[str]
    classifier: str
    blocks: tuple[str, str]
    """What the list of blocks is called there, and in timm."""
    expands: str
    """The part that a block has if it expands."""
    names: Mapping[str, str]
    separable: Mapping[str, str]
    inverted: Mapping[str, str]

    def renamed(self, state: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any] | None:
        """The leaves under timm's keys, which ``wanted`` are; None where the keys are not this project's."""
        theirs, ours = self.blocks
        places = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in wanted if key.startswith(f"{ours}.")))
        expanding = {key.split(".")[1] for key in state if key.split(".")[0] == theirs and key.split(".")[2:3] == [self.expands]}
        found = {}
        for key, leaf in state.items():
            head, _, tail = key.partition(".")
            if head == theirs:
                number, _, part_and_tail = tail.partition(".")
                part, _, tail = part_and_tail.partition(".")
                table = self.inverted if number in expanding else self.separable
                if not number.isdecimal() or int(number) >= len(places) or part not in table:
                    return None
                name = f"{places[int(number)]}.{table[part]}"
            elif head in self.names:
                name = self.names[head]
            else:
                return None
            found[f"{name}.{tail}"] = leaf
        return found or None


@cache
def tables() -> tuple[Names, ...]:
    """All tables of names that ship."""
    return tuple(
        Names(**{**table, "blocks": tuple(table["blocks"])})
        for path in sorted((folder("data") / "names").glob("*.toml"))
        if (table := tomllib.loads(path.read_text("utf-8")))
    )


def renamed(state: Mapping[str, Any], module: nn.Module) -> tuple[dict[str, Any], str] | None:
    """The leaves under the keys of a network, and whose names the file has; None where no table makes them so."""
    wanted = module.state_dict()
    for names in tables():
        found = names.renamed(state, wanted)
        if found is not None and agree(found, wanted):
            return found, names.title
    return None


def by_order(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any] | None:
    """The leaves under the keys of a network whose tensors have the same shapes in the same order; None where they have not."""
    ours = [(key, tuple(leaf.shape)) for key, leaf in module.state_dict().items() if not key.endswith(COUNTER)]
    theirs = [(key, leaf) for key, leaf in state.items() if not key.endswith(COUNTER)]
    if [shape for _, shape in ours] != [tuple(leaf.shape) for _, leaf in theirs]:
        return None
    return {key: leaf for (key, _), (_, leaf) in zip(ours, theirs, strict=True)}


def matched(state: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What was matched by order, for a note."""
    origin = {id(leaf): key for key, leaf in state.items()}
    pairs = [f"{origin[id(leaf)]} as {key}" for key, leaf in found.items()]
    return f"{len(pairs)} tensors were matched by their order: {pairs[0]} … {pairs[-1]}"


def agree(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the leaves have the keys and shapes that a network wants."""
    keys = {key for key in wanted if not key.endswith(COUNTER)}
    mine = {key for key in found if not key.endswith(COUNTER)}
    return mine == keys and all(tuple(found[key].shape) == tuple(wanted[key].shape) for key in keys)
