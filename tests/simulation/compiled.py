"""Keeps what the ORM compiles again for each statement: columns, order, converters, conditions.

The statements stay what they are: a test tells one story with and without this module.
The ORM's work was most of a schedule's time, SQLite's a tenth of it, and a worker asks the same questions all the time.
The values of conditions are compiled each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models.expressions import Col, Value
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.query import Query
from django.db.models.sql.where import AND, WhereNode

_get_select, _get_order_by, _get_converters = (
    SQLCompiler.get_select,
    SQLCompiler.get_order_by,
    SQLCompiler.get_converters,
)
_build_filter = Query.build_filter
_selects: dict[Any, Any] = {}
_orders: dict[Any, Any] = {}
_converters: dict[Any, Any] = {}
_quoted: dict[str, str] = {}
_plans: dict[Any, Any] = {}


def keep() -> None:
    """Begin to keep compiled parts; for a process with one database."""
    SQLCompiler.get_select = _kept_select  # type: ignore[method-assign]
    SQLCompiler.get_order_by = _kept_order  # type: ignore[method-assign]
    SQLCompiler.get_converters = _kept_converters  # type: ignore[method-assign]
    SQLCompiler.quote_name_unless_alias = SQLCompiler.quote_name = _kept_name  # type: ignore[method-assign]
    Query.build_filter = _kept_filter  # type: ignore[method-assign]


def _kept_select(self: Any, with_col_aliases: bool = False) -> Any:
    self.kept = key = None if with_col_aliases else _select_key(self.query)
    if key is None:
        return _get_select(self, with_col_aliases=with_col_aliases)
    if key not in _selects:
        _selects[key] = _get_select(self)
    elif self.query.select_related:
        for name in self.query.select_related:  # the first time did it for its own query
            self.query.setup_joins([name], self.query.get_meta(), self.query.get_initial_alias())
    return _selects[key]


def _kept_order(self: Any) -> Any:
    key = _order_key(self.query, self.kept)
    if key is None:
        return _get_order_by(self)
    if key not in _orders:
        _orders[key] = _get_order_by(self)
    return _orders[key]


def _kept_converters(self: Any, expressions: Any) -> Any:
    key = getattr(self, "kept", None)
    if key is None:
        return _get_converters(self, expressions)
    if key not in _converters:
        _converters[key] = _get_converters(self, expressions)
    return _converters[key]


def _kept_name(self: Any, name: str) -> str:
    # An alias is quoted too: "T3" and T3 mean the same.
    found = _quoted.get(name)
    if found is None:
        found = _quoted[name] = self.connection.ops.quote_name(name)
    return found


def _kept_filter(self: Any, expression: Any, *args: Any, **options: Any) -> Any:
    if type(expression) is tuple and not (args or options.get("current_negated") or self.annotations):
        name, value = expression
        plan = _plans.get((self.model, name), ...)
        if plan is ...:
            plan = _plans[self.model, name] = _plan(self.model, name)
        if plan is not None and _is_plain(value):
            return _own_column(self, *plan, value, options.get("can_reuse"))
    return _build_filter(self, expression, *args, **options)


_LOOKUPS = ("exact", "in", "gt", "gte", "lt", "lte", "isnull")


def _plan(model: Any, name: str) -> Any:
    """Field and lookup of a condition on one of the model's own columns; None: it is another condition."""
    column, _, lookup = name.partition("__")
    if column not in _columns(model) or (lookup or "exact") not in _LOOKUPS:
        return None
    return (model._meta.pk if column == "pk" else model._meta.get_field(column)), lookup or "exact"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return not any(hasattr(element, "resolve_expression") for element in value)
    return not (hasattr(value, "resolve_expression") or isinstance(value, Iterator))


def _own_column(query: Any, field: Any, lookup: str, value: Any, can_reuse: Any) -> Any:
    """``Query.build_filter`` for a column that needs no join."""
    alias = query.get_initial_alias()
    if can_reuse is not None:
        can_reuse.add(alias)
    condition = query.build_lookup([lookup], query._get_col(field, field, alias), value)
    is_outer = condition.lookup_name == "isnull" and condition.rhs is True
    return WhereNode([condition], connector=AND), () if is_outer else {alias}


def _select_key(query: Any) -> Any:
    """What the selected columns depend on; None: on more than this module knows."""
    if query.extra or query.combinator or query.select_related is True:
        return None
    related = query.select_related or {}
    constants = {name: value.value for name, value in query.annotations.items() if type(value) is Value}  # exists()
    if any(related.values()) or len(constants) < len(query.annotations):
        return None
    columns = []
    for column in query.select:
        if type(column) is not Col:
            return None
        columns.append((column.alias, column.target.model, column.target.attname))
    names, is_deferred = query.deferred_loading
    selected = None if query.selected is None else tuple(query.selected.items())
    return (
        *(query.model, query.base_table, query.default_cols, frozenset(names), is_deferred, selected, tuple(columns)),
        *(tuple(related), tuple(constants.items()), tuple(query.annotation_select)),
    )


def _order_key(query: Any, select_key: Any) -> Any:
    """What the order depends on; None: on more than the model's own columns."""
    if select_key is None or query.extra_order_by or query.distinct or query.annotations:
        return None
    ordering = query.order_by or (query.get_meta().ordering if query.default_ordering else ())
    if not all(isinstance(name, str) and name.lstrip("-") in _columns(query.model) for name in ordering):
        return None
    return select_key, tuple(ordering), query.standard_ordering


_COLUMNS: dict[Any, frozenset[str]] = {}


def _columns(model: Any) -> frozenset[str]:
    if model not in _COLUMNS:
        plain = {field.name for field in model._meta.concrete_fields if not field.is_relation}
        _COLUMNS[model] = frozenset(plain | {"pk"})
    return _COLUMNS[model]
