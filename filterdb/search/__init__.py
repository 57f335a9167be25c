"""Search: which template is nearest to each filter, and which filters are similar to one.

nearest   all filters against all templates of a bank, exactly
index     the FAISS index of each kernel size, which follows the database
similar   the k nearest of the index, checked exactly
"""

__all__ = ["index", "nearest", "similar"]
