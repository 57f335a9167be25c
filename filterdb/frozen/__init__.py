"""Frozen: networks whose depthwise kernels are templates of a bank, each a·g + b with its own a and b.

layer       FrozenDepthwiseConv2d and the autograd function below it
swap        layers of a network frozen, and plain again
choices     which template a kernel becomes, and what is repaired afterwards
plan        which layers get which bank
replace     every kernel of a network becomes its best a·g + b
pointwise   the pointwise layers behind replaced kernels, solved again
recalibrate, correct   batch normalisations, gains and biases
mixtures    several templates in the place of one kernel
inputs      the fit weighted by what a layer sees
steps       replacement and what comes after it, in order: recalibrate, correct, repair
files       the same for a checkpoint file, without building the network
greedy      which templates can be left out; pool, stages and trials are its parts
make_bank   banks made from a database
report      what a replacement changed, layer by layer
"""

__all__ = [
    "choices", "files", "greedy", "layer", "make_bank", "plan", "pool", "recalibrate", "replace", "report", "steps",
    "swap", "trials",
]  # fmt: skip
