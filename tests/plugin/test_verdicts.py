"""Each way in which a test can end has its verdict, and a test's residue is its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.lab.ledger import unsettled
from conformance.record import Attachment, DriverCall, ItemPlanned, ItemStarted, RunFinished, RunStarted, TargetSeen
from labs.nested.cell import toml
from labs.simulated.lab import inventory
from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

EVERY_END = """
@requirement("boot.correct-image")
def test_pass(machine):
    assert machine.guest.answers()

@requirement("boot.correct-root-device")
def test_assertion(machine):
    assert machine.guest.boot().boots == 99

@requirement("reboot.exactly-once")
def test_driver_error(driver):
    driver.start("no such vm").wait()

@requirement("reboot.soft-new-boot-id")
def test_did_not_raise(driver):
    with pytest.raises(NotFound):
        driver.list()

@requirement("reboot.hard-is-immediate")
def test_not_observed():
    raise GuestSilent("nobody answers")

@requirement("boot.fails-cleanly-bad-image")
def test_lab_error():
    raise ProbeFailed("the probe could not look")

@requirement("boot.retry-after-failure")
def test_own_bug():
    None.nothing

@requirement("boot.network-before-run")
def test_skips():
    pytest.skip("not today")

@requirement("boot.image-format-not-probed")
def test_expects_failure():
    pytest.xfail("it is known")

@pytest.fixture
def broken():
    raise KeyError("a bug in a fixture")

@requirement("boot.fails-cleanly-no-memory")
def test_broken_fixture(broken):
    pass
"""


def test_every_end_has_its_verdict(run: Callable[..., Run]) -> None:
    done = run(EVERY_END)

    assert done.verdicts() == {
        "test_pass": "pass",
        "test_assertion": "fail",
        "test_driver_error": "fail",
        "test_did_not_raise": "fail",
        "test_not_observed": "fail",
        "test_lab_error": "lab-error",
        "test_own_bug": "lab-error",
        "test_skips": "fail",
        "test_expects_failure": "fail",
        "test_broken_fixture": "lab-error",
    }
    assert done.code == 1
    finished = done.finished()
    assert "not today" in finished["test_skips[simulated]"].message
    assert finished["test_driver_error[simulated]"].message.startswith("NotFound: ")
    attached = {event.name for event in done.events if isinstance(event, Attachment) and "test_assertion" in event.item}
    assert {"driver calls", "domains on the hosts"} < attached
    assert any(name.startswith("console of hvc-") for name in attached)


def test_record_tells_the_run(run: Callable[..., Run]) -> None:
    done = run('@requirement("boot.correct-image")\ndef test_boots(machine):\n    pass\n')

    kinds = [type(event) for event in done.events]
    assert kinds[0] is RunStarted
    assert kinds[-1] is RunFinished
    assert kinds.index(ItemPlanned) < kinds.index(ItemStarted)
    seen = [event for event in done.events if isinstance(event, TargetSeen)]
    assert seen[-1].boot_seconds is not None
    calls = [event.operation for event in done.events if isinstance(event, DriverCall) and "test_boots" in event.item]
    assert {"create", "start", "delete"} <= set(calls)
    assert (done.out / "matrix.json").exists()


def test_lab_error_alone_has_its_own_exit_code(run: Callable[..., Run]) -> None:
    done = run('@requirement("boot.correct-image")\ndef test_it():\n    raise ProbeFailed("it could not look")\n')

    assert done.verdicts() == {"test_it": "lab-error"}
    assert done.code == 6


def test_sick_lab_is_not_blamed_on_the_driver(run: Callable[..., Run]) -> None:
    done = run(
        '@requirement("boot.correct-image")\ndef test_it():\n    raise GuestSilent("nobody answers")\n',
        conftest="""
from labs.simulated.observers import SimulatedObservers
SimulatedObservers.health = lambda self: ["the switch is gone"]
""",
    )

    (finished,) = done.finished().values()
    assert finished.verdict == "lab-error"
    assert "the switch is gone" in finished.message
    assert "nobody answers" in finished.message


@pytest.mark.parametrize("error", ['HostUnreachable("end of file while reading")', 'AssertionError("not migrated")'])
def test_a_daemon_that_dies_under_a_test_fails_that_test_and_no_other(run: Callable[..., Run], error: str) -> None:
    done = run(
        f"""
@requirement("boot.correct-image")
def test_it():
    raise {error}

@requirement("boot.cpu-count")
def test_next(machine):
    from labs.simulated.observers import SimulatedObservers
    assert SimulatedObservers.health(None) == []
""",
        conftest="""
from labs.simulated.observers import SimulatedObservers
DEAD = ["host a"]
SimulatedObservers.health = lambda self: ["libvirt does not answer"] * len(DEAD)
SimulatedObservers.revive = lambda self: [f"the daemon of {DEAD.pop()} was started again"] if DEAD else []
""",
    )

    found = {name.partition("[")[0]: event for name, event in done.finished().items()}
    assert {name: str(event.verdict) for name, event in found.items()} == {"test_it": "fail", "test_next": "pass"}
    assert found["test_it"].message.startswith(f"the daemon of host a was started again ({error.partition('(')[0]}: ")


def test_lab_file_of_a_sick_lab_is_one_message(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a nested lab is asked when it comes up, a lab of somebody's own is asked before the first test."""
    monkeypatch.setenv("HVCONFORM_STATE", str(pytester.path / "state"))
    text = toml(inventory("mine").model_copy(update={"kind": "libvirt"}))
    pytester.path.joinpath("mylab.toml").write_text(text)
    pytester.makepyfile('import pytest\n@pytest.mark.requirement("boot.correct-image")\ndef test_it(): pass\n')

    done = pytester.runpytest_subprocess("--lab=mylab.toml", "--out=out", "-p", "no:cacheprovider", timeout=120)

    assert done.ret == 6
    done.stderr.fnmatch_lines(["*lab mine is not fit to judge a driver:", "  host a: *", "  try: *"])
    assert "Traceback" not in done.stderr.str()


LEAKS = """
@requirement("boot.correct-image")
def test_leaves_a_vm(driver, machines):
    spec = machines.spec()
    driver.create(spec).wait()

@requirement("boot.correct-root-device")
def test_after_it(machine):
    pass
"""


UNCHANGED = """
@requirement("boot.correct-image")
def test_changes(machine, driver):
    driver.start(machine.id).wait()

@requirement("boot.correct-image")
def test_reads(driver):
    driver.list()

@requirement("boot.correct-image")
def test_reads_again(driver):
    driver.list()

@requirement("boot.correct-image")
def test_changes_again(driver, machine):
    driver.start(machine.id).wait()

@requirement("boot.correct-image")
def test_reads_after_that(driver):
    driver.list()
"""

COUNTS_LOOKS = """
from conformance.plugin.worker import Worker
looks = 0
look = Worker.look

def counted(self):
    global looks
    looks += 1
    return look(self)

Worker.look = counted

@pytest.fixture(autouse=True)
def _count(_watched, request):
    yield
    print(f"\\nlooks: {request.node.originalname} {looks}")
"""


def test_hosts_are_looked_at_only_after_what_may_have_changed_them(run: Callable[..., Run]) -> None:
    done = run(UNCHANGED, "-s", conftest="import pytest\n" + COUNTS_LOOKS)
    lines = [line.split() for line in done.result.stdout.lines if line.startswith("looks: ")]
    looks = {name: int(count) for _, name, count in lines}
    assert looks["test_reads"] == looks["test_changes"] + 1
    assert looks["test_reads_again"] == looks["test_reads"]
    assert looks["test_reads_after_that"] == looks["test_changes_again"] + 1


def test_residue_fails_the_test_that_left_it_and_is_cleaned(run: Callable[..., Run]) -> None:
    done = run(LEAKS)

    assert done.verdicts() == {"test_leaves_a_vm": "fail", "test_after_it": "pass"}
    finished = done.finished()["test_leaves_a_vm[simulated]"]
    assert finished.message.startswith("left behind: ")
    assert finished.residue
    reclaimed = [event for event in done.events if isinstance(event, DriverCall) and event.operation == "reclaim"]
    assert reclaimed


STEADY = """
@pytest.fixture
def vm(steady):
    return steady(lambda machines: machines.boot())

@pytest.mark.steady
@requirement("boot.cpu-count")
def test_one(vm):
    assert vm.guest.answers()

@pytest.mark.steady
@requirement("boot.memory-size")
def test_two(vm):
    assert vm.guest.answers()
"""


def test_steady_tests_share_a_vm_of_each_provenance(run: Callable[..., Run]) -> None:
    done = run(STEADY, "--provenance=booted,migrated")

    finished = done.finished()
    assert {name: str(event.verdict) for name, event in finished.items()} == {
        f"test_{number}[simulated-{way}]": "pass" for number in ("one", "two") for way in ("booted", "migrated")
    }
    assert {event.provenance for event in finished.values()} == {"booted", "migrated"}
    created = [event for event in done.events if isinstance(event, DriverCall) and event.operation == "create"]
    assert len(created) == 1 + 2, "one for the pace, one for each provenance"


def test_what_a_shared_vm_leaves_is_the_last_tests(run: Callable[..., Run]) -> None:
    leaking = STEADY.replace("machines.boot())", "machines.boot() if machines.name() else 0)").replace(
        "steady(lambda machines: ", "steady(lambda machines: machines._driver.create(machines.spec()) and "
    )
    done = run(leaking, "--provenance=booted")

    assert done.verdicts() == {"test_one": "pass", "test_two": "fail"}
    assert done.finished()["test_two[simulated-booted]"].residue


def test_vm_that_a_check_failed_on_is_not_used_again(run: Callable[..., Run]) -> None:
    done = run(STEADY.replace("assert vm.guest.answers()", "assert False", 1), "--provenance=booted")

    assert done.verdicts() == {"test_one": "fail", "test_two": "pass"}
    created = [event for event in done.events if isinstance(event, DriverCall) and event.operation == "create"]
    assert len(created) == 1 + 2


def test_driver_that_cannot_delete_fails_the_test(run: Callable[..., Run]) -> None:
    done = run(
        LEAKS.replace("driver.create(spec).wait()", "machines.create(spec)"),
        conftest="""
class Stubborn(SimulatedDriver):
    def delete(self, vm):
        raise HypervisorFailure("the disk is on fire", operation="delete", vm=vm)
    def reclaim(self, name):
        pass
labs.driver_class = lambda name: Stubborn
""",
    )

    finished = done.finished()["test_leaves_a_vm[simulated]"]
    assert finished.verdict == "fail"
    assert "could not delete" in finished.message
    assert finished.residue


def test_the_vm_that_measures_the_pace_leaves_nothing(run: Callable[..., Run]) -> None:
    """It is no test's own, so nothing else would notice a driver that says deleted and deletes nothing."""
    done = run(
        '@requirement("boot.correct-image")\ndef test_it(driver, observers):\n'
        "    assert [len(observers.host(name).domains()) for name in driver.hosts()] == [0, 0]\n",
        conftest="SimulatedDriver.delete = lambda self, vm: Completed(None)\n",
    )

    assert done.verdicts() == {"test_it": "pass"}
    assert not list((done.out.parent / "state" / "ledgers").rglob("*.jsonl"))


ABANDONS = """
from drivers.simulated import SimulatedDriver

@requirement("boot.correct-image")
def test_leaves_for_good(machine):
    pass

@requirement("boot.correct-root-device")
def test_sees_it_go(driver):
    SimulatedDriver.broken = False
    for vm in driver.list():
        driver.delete(vm).wait()

@requirement("boot.reaches-userspace")
def test_leaves_its_own(driver, machines):
    SimulatedDriver.broken = True
    driver.create(machines.spec()).wait()
"""


def test_what_one_test_left_for_good_is_no_other_tests_doing(run: Callable[..., Run]) -> None:
    done = run(
        ABANDONS,
        conftest="real_delete, SimulatedDriver.broken = SimulatedDriver.delete, True\n"
        "SimulatedDriver.delete = lambda self, vm: Completed(None) if self.broken else real_delete(self, vm)\n"
        "SimulatedDriver.reclaim = lambda self, name: None\n",
    )

    assert done.verdicts() == {"test_leaves_for_good": "fail", "test_sees_it_go": "pass", "test_leaves_its_own": "fail"}


def test_what_was_not_reclaimed_stays_in_the_ledger(run: Callable[..., Run]) -> None:
    """A driver that says deleted and says reclaimed, and does neither, leaves the sweep something to go by."""
    done = run(
        '@requirement("boot.correct-image")\ndef test_it(machine):\n    pass\n',
        conftest="SimulatedDriver.delete = lambda self, vm: Completed(None)\n"
        "SimulatedDriver.reclaim = lambda self, name: None\n",
    )

    assert done.verdicts() == {"test_it": "fail"}
    (finished,) = done.finished().values()
    assert "left behind" in finished.message
    (ledger,) = (done.out.parent / "state" / "ledgers").rglob("*.jsonl")
    assert len(unsettled(ledger)) == 2, "the VM that measured the pace, and the test's own"
