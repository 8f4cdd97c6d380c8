"""Damaged answers end in values or typed errors, in time, and leave no shell; `bench/winrm_fuzz.py` does 10,000."""

from __future__ import annotations

from random import Random

from labs.hyperv_double.endpoint import Endpoint
from tests.hyperv.transport import fuzzing, mutator
from tests.hyperv.transport.conftest import Bench

CASES = 40


def test_damaged_answers_end_in_typed_errors(bench: Bench, endpoint: Endpoint) -> None:
    ends = fuzzing.run(endpoint, bench.connect(endpoint), seed=1, cases=CASES)
    assert ends.total() == CASES
    assert ends["values"] < CASES, "nothing was damaged"


def test_the_damage_is_repeatable_and_real() -> None:
    body = b'<a b="c"><rsp:Stream Name="stdout">eyJpZCI6MX0=</rsp:Stream></a>'
    made = [mutator.mutate(Random(seed), body) for seed in range(200)]
    assert made == [mutator.mutate(Random(seed), body) for seed in range(200)]
    assert len(set(made)) > 150
