"""Frozen: networks whose depthwise kernels are templates of a bank, each a·g + b with its own a and b.

layer       FrozenDepthwiseConv2d and the autograd function below it
swap        converts layers of a network to frozen ones and back
choices     options: the matching of templates, and the repairs after it
plan        which layers get which bank
replace     every kernel of a network becomes its best a·g + b
pointwise   solves the pointwise layers behind replaced kernels again
recalibrate, correct   batch normalisations, gains and biases
mixtures    several templates for one kernel
inputs      the fit weighted by what a layer sees
steps       replacement and what comes after it, in order: recalibrate, correct, repair
files       the same for a checkpoint file, without building the network
greedy      greedy search for a smaller bank; pool, stages and trials are its parts
make_bank   banks made from a database
report      what a replacement changed, layer by layer
"""

__all__ = [
    "choices", "files", "greedy", "layer", "make_bank", "plan", "pool", "recalibrate", "replace", "report", "steps",
    "swap", "trials",
]  # fmt: skip
