"""Prepared statements for the app's query sets: a query of a shape that was seen before is not compiled again.

The ORM's work was most of a schedule's time, SQLite's a tenth of it, and a worker asks the same questions all the time.
A query set here only notes what was asked of it.  The first time, Django compiles it with a marker in place of each
value; wherever a marker comes out among the parameters, the value goes from then on.  What this module does not know
how to prepare is done by Django, as without it: the statements stay what they are, and a test tells one story with and
without this module.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import EmptyResultSet
from django.db import connections, transaction
from django.db.models import F, Model, Q, QuerySet
from django.db.models.expressions import CombinedExpression, Value
from django.db.models.sql import UpdateQuery
from django.db.models.sql.constants import SINGLE

from prx_email_django.models.managers import OutboxManager

#: Values of one condition with ``in``, above which it is not prepared: each count is a shape of its own.
MOST_VALUES = 12
_MARKED_DAY = datetime(1913, 1, 1, tzinfo=UTC)
#: What makes a marker of each type of value, by the number of its place.
_MARKERS: dict[type, Callable[[int], Any]] = {
    int: lambda place: 1_913_000_000 + place,
    float: lambda place: 1913.001 + place,
    str: lambda place: f"marker {place}",
    datetime: lambda place: _MARKED_DAY + timedelta(hours=place, microseconds=191_300),
    uuid.UUID: lambda place: uuid.UUID(int=1913 + place),
}
#: What a value of each type is as a parameter of SQLite.
_PREPARED: dict[type, Callable[[Any], Any]] = {
    int: int,
    float: float,
    str: str,
    datetime: lambda value: str(value.astimezone(UTC).replace(tzinfo=None)),
    uuid.UUID: lambda value: value.hex,
}


#: What a query set of Django knows about itself.
_INSIDE = frozenset(vars(QuerySet(ContentType)))
_CONDITIONS = ("filter", "exclude")


class _Unknown(Exception):
    """This module cannot prepare it."""


class _Plan(NamedTuple):
    """A statement, and for each parameter what it is, or which value it takes and what prepares that."""

    sql: str
    parameters: tuple[tuple[Any, int, Callable[[Any], Any] | None], ...]
    compiler: Any
    queryset: Any

    def filled(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The parameters of the statement with these values."""
        return tuple([fixed if prepare is None else prepare(values[at]) for fixed, at, prepare in self.parameters])


_Prepare = Callable[[Any, Any], _Plan]
_shapes: dict[Any, int] = {}
_plans: dict[Any, _Plan | None] = {}


def keep() -> None:
    """Prepare the app's statements from now on; for a process with one database."""

    def get_queryset(self: Any) -> PreparedQuerySet:
        return PreparedQuerySet(self.model, using=self._db or "default", hints=self._hints)

    OutboxManager.get_queryset = get_queryset  # type: ignore[method-assign]


def _step(name: str) -> Any:
    def step(self: PreparedQuerySet, *args: Any, **options: Any) -> Any:
        return self._noted(name, args, options)

    return step


class PreparedQuerySet(QuerySet):  # type: ignore[type-arg]
    """Notes what is asked of it; becomes Django's own query set where somebody looks inside."""

    def __init__(self, model: Any = None, query: Any = None, using: Any = None, hints: Any = None) -> None:
        if query is not None:
            super().__init__(model, query, using, hints)
            self._steps = None
            return
        self.model, self._db, self._hints = model, using, hints or {}
        self._result_cache = None
        self._steps: tuple[Any, ...] | None = ()
        self._shape: Any = _number((model, using))
        self._values_noted: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name not in _INSIDE or self.__dict__.get("_steps") is None:
            raise AttributeError(name)
        self._become()
        return getattr(self, name)

    def _become(self) -> None:
        """Be what Django would have made of the steps."""
        made = _made(self.model, self._db, self._steps or ())
        self.__dict__.update({**made.__dict__, **self.__dict__, "_steps": None})

    def _noted(self, name: str, args: Any, options: Any) -> Any:
        if self._steps is None:
            return getattr(super(), name)(*args, **options)
        values: list[Any] = []
        try:
            if name in _CONDITIONS:
                shape = (self._shape, name, _described(args, values), _described(options, values))
            else:
                shape = (self._shape, name, tuple(map(_plain, args)), tuple(options.items()))
            if "_known_related_objects" in self.__dict__:
                raise _Unknown
        except _Unknown:
            self._become()
            return getattr(super(), name)(*args, **options)
        noted = object.__new__(PreparedQuerySet)
        noted.__dict__.update(
            model=self.model,
            _db=self._db,
            _hints=self._hints,
            _result_cache=None,
            _steps=(*self._steps, (name, args, options)),
            _shape=_number(shape),
            _values_noted=(*self._values_noted, *values),
        )
        return noted

    filter = _step("filter")
    exclude = _step("exclude")
    order_by = _step("order_by")
    values_list = _step("values_list")
    values = _step("values")
    only = _step("only")
    select_related = _step("select_related")
    select_for_update = _step("select_for_update")
    distinct = _step("distinct")

    def all(self) -> Any:
        return super().all() if self._steps is None else self._noted("all", (), {})

    def __getitem__(self, key: Any) -> Any:
        if self._steps is None or self._result_cache is not None or not isinstance(key, slice) or key.step is not None:
            return super().__getitem__(key)
        return self._noted("__getitem__", (key,), {})

    # What asks the database

    def _plan(self, kind: str, prepare: _Prepare, options: dict[str, Any]) -> tuple[_Plan, Any] | None:
        """The statement and its parameters; None: Django does it."""
        if self._steps is None:
            return None
        values: list[Any] = []
        try:
            if "_known_related_objects" in self.__dict__:
                raise _Unknown
            key = (self._shape, kind, _described(options, values))
            values[:0] = self._values_noted
            if key not in _plans:
                _plans[key] = None  # unless it can be prepared
                _plans[key] = _prepared(self, values, options, prepare)
            plan = _plans[key]
        except _Unknown:
            plan = None
        if plan is None:
            self._become()
            return None
        return plan, plan.filled(tuple(values))

    def _fetch_all(self) -> None:
        if self._result_cache is not None and self._steps is not None:
            return
        planned = self._plan("select", _select, {})
        if planned is None:
            super()._fetch_all()
            return
        plan, parameters = planned
        found = plan.queryset
        view = _View(self.model, self.db, self._hints, found._fields, plan, parameters)
        self._result_cache = list(found._iterable_class(view))

    @property
    def db(self) -> str:
        return self._db or super().db

    def first(self) -> Any:
        if self._steps is None:
            return super().first()
        is_ordered = any(name == "order_by" for name, _, _ in self._steps) or self.model._meta.ordering
        return next(iter((self if is_ordered else self.order_by("pk"))[:1]), None)

    def get(self, *args: Any, **options: Any) -> Any:
        if self._steps is None or any(name == "__getitem__" for name, _, _ in self._steps):
            return super().get(*args, **options)
        found = list(self.filter(*args, **options).order_by()[:21])
        if len(found) == 1:
            return found[0]
        if not found:
            raise self.model.DoesNotExist(f"{self.model._meta.object_name} matching query does not exist.")
        raise self.model.MultipleObjectsReturned(
            f"get() returned more than one {self.model._meta.object_name} -- it returned {len(found)}!"
        )

    def exists(self) -> bool:
        planned = None if self._result_cache is not None else self._plan("exists", _exists, {})
        if planned is None:
            return super().exists()
        plan, parameters = planned
        return bool(_of_now(plan, parameters).execute_sql(SINGLE))

    def update(self, **options: Any) -> int:
        planned = self._plan("update", _update, options)
        if planned is None:
            return super().update(**options)
        plan, parameters = planned
        connection = connections[self.db]
        with transaction.mark_for_rollback_on_error(using=self.db), connection.cursor() as cursor:
            cursor.execute(plan.sql, parameters)
            return int(cursor.rowcount)


class _View:
    """What Django's iterables look at in a query set."""

    def __init__(self, model: Any, db: str, hints: Any, fields: Any, plan: _Plan, parameters: Any) -> None:
        self.model, self.db, self._hints, self._fields = model, db, hints, fields
        self._known_related_objects: dict[Any, Any] = {}
        self._plan, self._parameters = plan, parameters
        self.query = self

    def get_compiler(self, using: Any = None) -> Any:
        return _of_now(self._plan, self._parameters)

    def __getattr__(self, name: str) -> Any:  # of the query set, or of its ``query``
        made = self._plan.queryset
        return getattr(made if name in _INSIDE else made.query, name)


def _of_now(plan: _Plan, parameters: Any) -> Any:
    """The compiler of the plan, on the connection of the actor that runs."""
    compiler = object.__new__(type(plan.compiler))
    compiler.__dict__.update(plan.compiler.__dict__)
    compiler.connection = connections[compiler.using]
    compiler.as_sql = lambda *_args, **_options: (plan.sql, parameters)
    return compiler


# How a statement is prepared


def _number(shape: Any) -> int:
    return _shapes.setdefault(shape, len(_shapes))


def _described(value: Any, values: list[Any]) -> Any:
    """What is the same in two questions that differ in values only; the values are added to ``values``.

    Raises:
        _Unknown: it may be anything.
    """
    kind = type(value)
    if kind in _MARKERS:
        values.append(value)
        return kind
    if value is None or kind is bool or isinstance(value, enum.Enum):
        return value
    if kind is dict:
        return tuple([(name, _condition(name, element, values)) for name, element in value.items()])
    if kind is tuple:
        return tuple([_described(element, values) for element in value])
    if kind is Q:
        children = [
            (child[0], _condition(*child, values)) if type(child) is tuple else _described(child, values)
            for child in value.children
        ]
        return (Q, value.connector, value.negated, *children)
    return _described_rarely(value, values)


def _plain(value: Any) -> Any:
    """The name of a column, or a slice."""
    if type(value) is slice:
        return slice, value.start, value.stop
    if type(value) is not str:
        raise _Unknown
    return value


def _described_rarely(value: Any, values: list[Any]) -> Any:
    if type(value) is F:
        return F, value.name
    if type(value) is Value and isinstance(value.value, int | str | None):
        return Value, value.value, type(value.value)
    if type(value) is CombinedExpression:
        return value.connector, _described_rarely(value.lhs, values), _described_rarely(value.rhs, values)
    raise _Unknown


def _condition(name: str, value: Any, values: list[Any]) -> Any:
    """A condition, or what a column shall be."""
    if name.endswith("__in") and not hasattr(value, "resolve_expression"):
        found = list(value) if isinstance(value, Iterable) and not isinstance(value, Iterator) else []
        kinds = {type(element) for element in found}
        if all(isinstance(element, enum.Enum) for element in found) and found:
            return tuple(found)
        if not 0 < len(set(found)) == len(found) <= MOST_VALUES or len(kinds) > 1 or not kinds <= _MARKERS.keys():
            raise _Unknown
        values += found
        return kinds.pop(), len(found)
    if isinstance(value, Model) and type(value.pk) is int:
        values.append(value.pk)
        return type(value)
    if type(value) is tuple or type(value) is dict:
        raise _Unknown
    return _described(value, values)


def _marked(value: Any, markers: Iterator[Any]) -> Any:
    """The same with markers in place of its values, in the order of ``_described``."""
    kind = type(value)
    if kind in _MARKERS:
        return next(markers)
    if kind is dict:
        return {name: _marked_condition(name, element, markers) for name, element in value.items()}
    if kind is tuple:
        return tuple([_marked(element, markers) for element in value])
    if kind is Q:
        children = [
            (child[0], _marked_condition(*child, markers)) if type(child) is tuple else _marked(child, markers)
            for child in value.children
        ]
        made = Q(*children, _connector=value.connector, _negated=value.negated)
        made.children = children  # in their order
        return made
    return value


def _marked_condition(name: str, value: Any, markers: Iterator[Any]) -> Any:
    if name.endswith("__in") and not hasattr(value, "resolve_expression"):
        return [element if isinstance(element, enum.Enum) else next(markers) for element in value]
    if isinstance(value, Model):
        return type(value)(pk=next(markers))
    return _marked(value, markers)


def _made(model: Any, using: Any, steps: Iterable[Any]) -> Any:
    made: Any = QuerySet(model, using=using)
    for name, args, options in steps:
        made = getattr(made, name)(*args, **options)
    return made


def _prepared(asked: PreparedQuerySet, values: list[Any], options: Any, prepare: _Prepare) -> Any:
    """The plan of a statement; None: a value does not come out as one parameter, or as another than itself."""
    markers = [_MARKERS[type(value)](place) for place, value in enumerate(values)]
    rest = iter(markers)
    # Names of columns, and numbers of slices, are parts of the shape.
    steps = [
        (name, _marked_args(name, args, rest), _marked_args(name, kept, rest)) for name, args, kept in asked._steps
    ]
    made = _made(asked.model, asked.db, steps)
    try:
        plan = prepare(made, _marked(options, rest))
    except EmptyResultSet:
        return None
    places = {_PREPARED[type(marker)](marker): place for place, marker in enumerate(markers)}
    parameters: list[Any] = []
    for parameter in plan.parameters:
        at = places.get(parameter) if type(parameter) in (int, float, str) else None
        parameters.append((parameter, -1, None) if at is None else (None, at, _PREPARED[type(values[at])]))
    if {at for _, at, prepare in parameters if prepare} != set(range(len(values))):
        return None
    return plan._replace(parameters=tuple(parameters))


def _marked_args(name: str, args: Any, markers: Iterator[Any]) -> Any:
    return _marked(args, markers) if name in _CONDITIONS else args


def _select(made: Any, _options: Any) -> _Plan:
    return _compiled(made, made.query)


def _exists(made: Any, _options: Any) -> _Plan:
    return _compiled(made, made.query.exists())


def _compiled(made: Any, query: Any) -> _Plan:
    compiler = query.get_compiler(using=made.db)
    sql, parameters = compiler.as_sql()
    compiler.setup_query()
    expressions = [column[0] for column in compiler.select[: compiler.col_count]]
    converters = compiler.get_converters(expressions)
    compiler.get_converters = lambda _expressions: converters
    return _Plan(sql, parameters, compiler, made)


def _update(made: Any, options: Any) -> _Plan:
    query = made.query.chain(UpdateQuery)
    query.add_update_values(options)
    if made.query.is_sliced or query.related_updates or query.annotations:
        raise _Unknown
    query.clear_select_clause()
    compiler = query.get_compiler(made.db)
    sql, parameters = compiler.as_sql()
    if not sql:
        raise _Unknown
    return _Plan(sql, parameters, compiler, made)
