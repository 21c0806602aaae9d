"""The ready queue bounds how many messages a killed worker may leave accepted and unrecorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.transports.found import Ahead
from prx_email_django.worker.queues import ReadyQueue

CONNECTIONS = 3


def filled() -> ReadyQueue:
    queue = ReadyQueue(CONNECTIONS)
    messages: Any = [SimpleNamespace(body=b"") for _ in range(400)]
    queue.push(messages)
    return queue


def take_all(queue: ReadyQueue) -> int:
    count = 0
    while queue.take() is not None:
        count += 1
    return count


@pytest.mark.parametrize(("window", "each"), [(0, 5), (1, 5), (4, 8), (32, 36)])
def test_no_more_is_written_than_a_kill_may_copy(window: int, each: int) -> None:
    """(4 + window) × connections, where the window is that of the server; by DATA it is one."""
    queue = filled()
    queue.found.remember(window, most=32)
    assert take_all(queue) == each * CONNECTIONS
    # Whatever is accepted meanwhile, no more than this is accepted and unrecorded.
    for _ in range(each * CONNECTIONS):
        queue.heard(Outcome(Ending.ACCEPTED))
    assert take_all(queue) == 0
    queue.recorded += each * CONNECTIONS
    assert take_all(queue) == each * CONNECTIONS


def test_window_that_fell_bounds_at_once() -> None:
    queue = filled()
    queue.found.remember(32, most=32)
    queue.found.window.fall()
    assert take_all(queue) == 5 * CONNECTIONS


def test_server_that_bears_no_window_bounds_as_with_data() -> None:
    queue = filled()
    queue.found.remember(32, most=32)
    queue.found.give_up(Ahead.CHUNKING)
    assert take_all(queue) == 5 * CONNECTIONS


@pytest.mark.parametrize(("window", "each"), [(1, 4), (4, 7), (32, 35)])
def test_unrecorded_results_leave_room_for_one_body_on_each_connection(window: int, each: int) -> None:
    queue = filled()
    queue.found.remember(window, most=32)
    for _ in range(each * CONNECTIONS):
        assert queue.take() is not None
        queue.heard(Outcome(Ending.ACCEPTED))
    assert queue.take() is None
    queue.recorded += 1
    assert queue.take() is not None


@pytest.mark.parametrize(("window", "group"), [(0, 6), (1, 6), (4, 10), (32, 52)])
def test_half_of_what_may_be_unrecorded_is_a_group(window: int, group: int) -> None:
    """The other half is sent while the database writes it."""
    queue = filled()
    queue.found.remember(window, most=32)
    assert queue.group == group
