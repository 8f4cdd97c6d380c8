"""Calls against an endpoint whose answers are damaged, one case after the other."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

from conformance.errors import DriverError
from drivers.hyperv.transport import Command, Result, Transport
from labs.hyperv_double.endpoint import Endpoint
from tests.hyperv.transport import mutator

SECONDS = 1.0
"""The deadline of a call: some damage looks like an answer that is still to come."""

GRACE_SECONDS = 4.0
"""How much later a call may come back on a busy machine."""


class Untyped(AssertionError):
    """A case ended otherwise than with values or with an error of the tree, or too late."""


def run(endpoint: Endpoint, transport: Transport, *, seed: int, cases: int) -> Counter[str]:
    """Damage one answer a case; returns how the calls ended, by the name of the error.

    Args:
        seed: Cases of a seed are always the same, but for what time decides.

    Raises:
        Untyped: Naming the case.
    """
    ends: Counter[str] = Counter()
    for case in range(cases):
        random = Random(f"{seed}/{case}")
        skip = random.randrange(3)
        done = 0

        def damage(_: str, body: bytes, random: Random = random) -> bytes:
            nonlocal skip, done
            skip -= 1
            if skip >= 0 or done:
                return body
            done += 1
            return mutator.mutate(random, body)

        while not done:  # a call of a kept session has fewer answers than one that opens it
            endpoint.knobs.mutate = damage
            began = time.monotonic()
            try:
                result = transport.invoke([Command("Get-VM", {"Name": f"vm-{case}"})], deadline_s=SECONDS)
                if not isinstance(result, Result) or not all(isinstance(item, dict) for item in result.objects):
                    raise Untyped(f"seed {seed}, case {case}: {result!r}")
                end = "values"
            except DriverError as error:
                end = type(error).__name__
            except Untyped:
                raise
            except Exception as error:
                raise Untyped(f"seed {seed}, case {case}: {error!r}") from error
            took = time.monotonic() - began
            if took > SECONDS + GRACE_SECONDS:
                raise Untyped(f"seed {seed}, case {case}: came back after {took:.1f} s")
        endpoint.knobs.mutate = None
        ends[end] += 1
    return ends
