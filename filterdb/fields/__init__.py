"""Fields: what a filter is as a receptive field, by the scale-space models of Lindeberg and by words.

fits        families of models, fitted to a kernel
fitting     fits of all filters of a database
store       the tables ``descriptors``, ``fits`` and ``regular``
regular     kernels of ordinary convolutions, drawn at ingest
describing  one filter, layer or model in numbers and a sentence
bank_fit    the program that fitted the bank greedy8
"""

__all__ = ["describing", "fits", "fitting", "regular", "store"]
