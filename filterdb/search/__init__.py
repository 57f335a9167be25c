"""Search: the nearest template of each filter, and the filters most similar to one.

nearest   all filters against all templates of a bank, exactly
index     the FAISS index of each kernel size, kept up to date with the database
similar   the k nearest of the index, with exact similarities
"""

__all__ = ["index", "nearest", "similar"]
