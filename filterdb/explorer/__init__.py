"""The explorer: a page of a database that one keeps open. ``filterdb serve`` starts it.

Pages are HTML made here and sent whole: each view is an address, nothing is kept for a visitor, and a browser without scripts
sees the same. The scripts that there are add to that; none of them, and no font or picture, comes from another host.

    server      listens, and says where
    app         which address is which page
    guard       who may look; what a browser may load
    desk        what a page needs: the database, the shelf, threads, templates
    shelf       a copy of the columns for choosing and sorting, in DuckDB's format, that follows the database; shelf_rows fills it
    jobs        what may take longer than a page may
    sql_box     SQL with limits
    choice      the state of a gallery, and its address
    data        the SQL over the shelf; data_models of it for models, spectra and comparisons
    looks       numbers, words, bars, curves
    pages/      one page in a file; templates/ and static/ are what they look like
"""

from filterdb.explorer.server import serve

__all__ = ["serve"]
