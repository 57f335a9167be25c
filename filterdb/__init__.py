"""filterdb: a database of the depthwise kernels of trained vision models, and a library to query it.

    import filterdb

    db = filterdb.Database("filters")
    db.ingest("timm:convnextv2_atto")
    db.sql("SELECT size, count(*) FROM filters GROUP BY size").show()
    db.nearest(bank="greedy8").df()
    kernels = db.kernels(model="convnextv2_atto", size="7x7").torch()

The public names, each loaded when it is first used:

    Database               a folder of tables; every verb of the command line is one of its methods
    Bank                   named templates
    FilterdbError          the base class of all errors
    Images                 which images, and how they are read
    Matching, Repair       how kernels are replaced, and what is repaired after that
    FrozenDepthwiseConv2d  a depthwise convolution whose kernels are frozen templates, each with its gain and offset
    freeze_layers          layers of a network, frozen in place
    to_plain               frozen layers as ordinary convolutions
    fold_gain              the gains of a frozen layer, moved into the layer that follows
    init_depthwise         depthwise kernels initialised with templates of a bank
    Monitor                kernels, classes and words of a network while it trains
    scale_space            discrete Gaussians, their derivatives, and kernels made of them
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from filterdb.version import __version__

if TYPE_CHECKING:
    from filterdb.banks import Bank as Bank
    from filterdb.database import Database as Database
    from filterdb.database.monitor import Monitor as Monitor
    from filterdb.errors import FilterdbError as FilterdbError
    from filterdb.frozen.choices import Matching as Matching
    from filterdb.frozen.choices import Repair as Repair
    from filterdb.frozen.layer import FrozenDepthwiseConv2d as FrozenDepthwiseConv2d
    from filterdb.frozen.swap import fold_gain as fold_gain
    from filterdb.frozen.swap import freeze_layers as freeze_layers
    from filterdb.frozen.swap import to_plain as to_plain
    from filterdb.images import Images as Images
    from filterdb.kernels import scale_space as scale_space
    from filterdb.training.initialise import init_depthwise as init_depthwise

_HOMES = {
    "Bank": "filterdb.banks", "Database": "filterdb.database", "FilterdbError": "filterdb.errors",
    "FrozenDepthwiseConv2d": "filterdb.frozen.layer", "Images": "filterdb.images", "Matching": "filterdb.frozen.choices",
    "Monitor": "filterdb.database.monitor", "Repair": "filterdb.frozen.choices", "fold_gain": "filterdb.frozen.swap",
    "freeze_layers": "filterdb.frozen.swap", "init_depthwise": "filterdb.training.initialise",
    "scale_space": "filterdb.kernels", "to_plain": "filterdb.frozen.swap",
}  # fmt: skip

__all__ = [
    "Bank", "Database", "FilterdbError", "FrozenDepthwiseConv2d", "Images", "Matching", "Monitor", "Repair", "__version__",
    "fold_gain", "freeze_layers", "init_depthwise", "scale_space", "to_plain",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, loaded when first used: ``import filterdb`` alone costs nothing."""
    if name in _HOMES:
        home = import_module(_HOMES[name])
        return import_module(f"{home.__name__}.{name}") if name == "scale_space" else getattr(home, name)
    raise AttributeError(f"module 'filterdb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
