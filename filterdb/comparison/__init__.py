"""Comparison: how two selections of kernels differ.

selection      sets of kernels: models, files, checkpoints of a run, SQL
compare        shift along principal components, shares of classes, the most novel kernels
layer_metrics  sparsity, variance entropy and orthogonality of each layer
store          the tables ``bases`` and ``components``
"""

__all__ = ["compare", "layer_metrics", "store"]
