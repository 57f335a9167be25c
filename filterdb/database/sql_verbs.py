"""The verbs that ask in SQL."""

from __future__ import annotations

from typing import Any

from filterdb.database.base import Base, Relation


class SqlVerbs(Base):
    """``sql`` and ``query``."""

    def sql(self, query: str, /, **parameters: Any) -> Relation:
        """Run one read-only SQL statement over ``models``, ``layers``, ``filters``, ``filters_7x7``, ``banks`` …

        Args:
            query: DuckDB SQL; parameters are written ``$name``.
            parameters: their values.

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.pl()``, ``.to_arrow_table()``, ``.show()``.

        Raises:
            QueryError: it does not parse, does not run, or would write.
        """
        return self._view().session.query(query, parameters)

    def query(self, name: str, /, **parameters: Any) -> Relation:
        """Run a named query of the folder ``queries``; see ``filterdb.store.named_queries``.

        Raises:
            NotFound: no query, parameter, model or kernel size of that name.
        """
        from filterdb.store import named_queries

        question = named_queries.load(name)
        values = question.bind(parameters)
        view = self._view()
        if "model" in values:
            view.check_model(values["model"])
        if values.get("size", "*") != "*":
            values["size"] = view.check_size(values["size"])
        if "classifier" in values:
            self._classes.load(values["classifier"])  # says so if there is none of that name
        return view.session.query(question.sql, values)
