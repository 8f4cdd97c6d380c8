"""Our own scheduler for pytest-xdist: items of one group stay together, and a crashed item is done, never repeated.

xdist's loadgroup ignores its groups with pytest 9.2 (pytest-xdist #1386), and its group schedulers run a crashing item
again and again, or hang (#1378, #1323, #1327).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from xdist.report import report_collection_diff  # type: ignore[import-untyped]
from xdist.workermanage import WorkerController, parse_tx_spec_config  # type: ignore[import-untyped]

_QUEUED = 2
"""A worker starts an item only when it knows the next one, so it always has this many, or was told to end."""


class GroupScheduling:
    """Hands out units of one or more items.

    Args:
        config: The controller's.
        groups: Gives the group of each node id; asked once, when the first collection is there. An item without a
            group is a unit of its own.
    """

    def __init__(self, config: pytest.Config, groups: Callable[[], Mapping[str, str]]) -> None:
        self.config = config
        self._groups = groups
        self._wanted = len(parse_tx_spec_config(config))
        self._queues: dict[WorkerController, list[int]] = {}
        self._collections: dict[WorkerController, list[str]] = {}
        self._units: list[list[int]] = []
        self._items: list[str] | None = None

    # what xdist asks

    @property
    def nodes(self) -> list[WorkerController]:
        return list(self._queues)

    @property
    def collection_is_completed(self) -> bool:
        return self._items is not None or len(self._collections) >= self._wanted

    @property
    def tests_finished(self) -> bool:
        return (
            self.collection_is_completed
            and not self._units
            and all(len(queue) < _QUEUED for queue in self._queues.values())
        )

    @property
    def has_pending(self) -> bool:
        return bool(self._units) or any(self._queues.values())

    # what xdist tells

    def add_node(self, node: WorkerController) -> None:
        self._queues[node] = []

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        if self._items is not None and list(collection) != self._items:
            # a replacement that collected something else cannot be given indices
            self._report(report_collection_diff(self._items, collection, "the run", node.gateway.id), node)
            node.shutdown()
            return
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        if self._items is None:
            first, *others = self._collections.items()
            for node, collection in others:
                if collection != first[1]:
                    self._report(
                        report_collection_diff(first[1], collection, first[0].gateway.id, node.gateway.id), node
                    )
                    for each in self.nodes:
                        each.shutdown()
                    self._items = []
                    return
            self._items = first[1]
            self._units = _units(self._items, self._groups())
        for _ in range(_QUEUED):  # one unit each in turn, so that a short run uses every worker
            for node in self.nodes:
                if self._takes(node):
                    self._send(node)
        for node in self.nodes:
            self._feed(node)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        self._queues[node].remove(item_index)
        self._feed(node)

    def mark_test_pending(self, item: str) -> None:
        """Run an item again; only a plugin that repeats crashed items asks for it."""
        assert self._items is not None
        self._units.insert(0, [self._items.index(item)])
        for node in self.nodes:
            self._feed(node)

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        raise NotImplementedError("nothing is ever stolen")

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a worker; what it was running is returned and done, the rest of its queue goes to others."""
        self._collections.pop(node, None)
        queue = self._queues.pop(node)
        if not queue:
            return None
        assert self._items is not None
        crashed, *rest = queue
        if rest:
            self._units.insert(0, rest)
        for other in self.nodes:
            self._feed(other)
        return self._items[crashed]

    # how it works

    def _feed(self, node: WorkerController) -> None:
        while self._takes(node):
            self._send(node)
        if not self._units and node in self._collections and not node.shutting_down:
            node.shutdown()

    def _takes(self, node: WorkerController) -> bool:
        """Whether a worker can be given a unit: a replacement collects first, and one told to end reads no more."""
        ready = node in self._collections and not node.shutting_down
        return ready and bool(self._units) and len(self._queues[node]) < _QUEUED

    def _send(self, node: WorkerController) -> None:
        unit = self._units.pop(0)
        self._queues[node].extend(unit)
        node.send_runtest_some(unit)

    def _report(self, difference: str | None, node: WorkerController) -> None:
        report: Any = pytest.CollectReport(
            nodeid=node.gateway.id, outcome="failed", longrepr=difference or "the collections differ", result=[]
        )
        self.config.hook.pytest_collectreport(report=report)


def _units(items: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
    units: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        group = groups.get(item, "")
        units.setdefault(group or f"\0{index}", []).append(index)
    # sorted by nothing but size: the largest group must not be the last to start
    return sorted(units.values(), key=len, reverse=True)
