"""The explorer: a database in the browser. ``filterdb serve`` starts it.

Pages are complete HTML, rendered on the server. Each view has an address, no session is kept, and pages work without scripts. No
script, font or picture comes from another host.

    server      listens, and prints the address
    app         the routes of the pages
    guard       access control, and what a browser may load
    desk        what a page needs: the database, the shelf, threads, templates
    shelf       a copy of the columns for choosing and sorting, in DuckDB's format, that follows the database; shelf_rows fills it
    jobs        work that takes longer than a page
    sql_box     SQL with limits
    choice      the state of a gallery, and its address
    data        the SQL over the shelf; data_models of it for models, spectra and comparisons
    looks       formatting of numbers, words, bars and curves
    pages/      one file for each page; templates/ and static/ have their layout
"""

from filterdb.explorer.server import serve

__all__ = ["serve"]
