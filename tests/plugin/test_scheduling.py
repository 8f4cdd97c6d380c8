"""The scheduler hands out every item exactly once, group by group, whatever happens to the workers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conformance.plugin.scheduling import GroupScheduling

ITEMS = ["a1", "b1", "a2", "c", "b2", "d"]
GROUPS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}


class Node:
    """A worker as the scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.queue: list[int] = []
        self.ran: list[str] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down, "an item was sent to a worker that was told to end"
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def may_run(self) -> bool:
        """xdist's workers start an item only when they know the next, or that there is none."""
        return len(self.queue) > 1 or (self.shutting_down and bool(self.queue))


@pytest.fixture
def scheduling() -> GroupScheduling:
    config = cast(Any, SimpleNamespace(getvalue=lambda name: {"tx": ["popen", "popen"]}[name]))
    return GroupScheduling(config, lambda: cast(Mapping[str, str], GROUPS))


def join(scheduling: GroupScheduling, *names: str) -> list[Node]:
    nodes = [Node(name) for name in names]
    for node in nodes:
        scheduling.add_node(cast(Any, node))
    for node in nodes:
        scheduling.add_node_collection(cast(Any, node), ITEMS)
    if scheduling.collection_is_completed:
        scheduling.schedule()
    return nodes


def work(scheduling: GroupScheduling, nodes: list[Node], rounds: int = 100) -> None:
    for _ in range(rounds):
        for node in nodes:
            if node.may_run():
                index = node.queue.pop(0)
                node.ran.append(ITEMS[index])
                scheduling.mark_test_complete(cast(Any, node), index)


def test_every_item_runs_once_and_groups_stay_together(scheduling: GroupScheduling) -> None:
    nodes = join(scheduling, "one", "two")

    work(scheduling, nodes)

    assert sorted(nodes[0].ran + nodes[1].ran) == sorted(ITEMS)
    for first, second in (("a1", "a2"), ("b1", "b2")):
        ran = next(node.ran for node in nodes if first in node.ran)
        assert ran[ran.index(first) + 1] == second
    assert scheduling.tests_finished
    assert not scheduling.has_pending


def test_crashed_item_is_done_and_the_rest_goes_to_the_replacement(scheduling: GroupScheduling) -> None:
    one, two = join(scheduling, "one", "two")
    crashing = ITEMS[one.queue[0]]

    crashed = scheduling.remove_node(cast(Any, one))
    work(scheduling, [two])
    (three,) = join(scheduling, "three")
    work(scheduling, [two, three])

    assert crashed == crashing
    assert sorted(two.ran + three.ran) == sorted(set(ITEMS) - {crashing})
    assert scheduling.tests_finished


def test_crash_after_the_others_were_told_to_end(scheduling: GroupScheduling) -> None:
    one, two = join(scheduling, "one", "two")
    work(scheduling, [two])
    left = [ITEMS[index] for index in one.queue]
    assert two.shutting_down

    assert scheduling.remove_node(cast(Any, one)) == left[0]
    (three,) = join(scheduling, "three")
    work(scheduling, [two, three])

    assert three.ran == left[1:]
    assert scheduling.tests_finished
    assert three.shutting_down


def test_idle_worker_that_ends_takes_nothing_along(scheduling: GroupScheduling) -> None:
    nodes = join(scheduling, "one", "two")
    work(scheduling, nodes)

    assert scheduling.remove_node(cast(Any, nodes[0])) is None
