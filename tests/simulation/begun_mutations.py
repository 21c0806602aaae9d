"""Rules about statements that are under way, broken on purpose (``mutations`` says how)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.db import Error

from prx_email_django.store import finalize
from tests.simulation.breaking import put


def results_whose_answer_is_lost_are_forgotten() -> None:
    """A group whose statement failed while it was under way is not recorded again."""
    finish = finalize._finish_group

    def forgets(group: Any, written: Callable[[], set[int]], **options: Any) -> Iterator[finalize.Part]:
        try:
            ours = written()
        except Error:
            return iter(())
        return finish(group, lambda: ours, **options)

    put(finalize, "_finish_group", forgets)


MUTATIONS = ((results_whose_answer_is_lost_are_forgotten, "conflicts", "and its attempt is"),)
