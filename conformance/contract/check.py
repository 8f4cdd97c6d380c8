"""Which test implements which requirement, and where tests and contract disagree.

A test of the suites names its requirement in a mark and in its own name:

    @pytest.mark.requirement("reboot.exactly-once")
    def test_reboot_exactly_once(...): ...

The marks are read from the source, without importing it, so that a check needs no lab. A requirement without a test has
to be published in ``uncovered.toml``, with the reason and the version of the contract since which it is so.
"""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from conformance.contract import Contract, ContractError, UnknownRequirement, load, read

MARK = "requirement"
STEADY_MARK = "steady"
UNCOVERED = "uncovered.toml"
NOT_WRITTEN = "no test written yet"
UNCOVERED_HEAD = """\
# The requirements without a test, and why. `hvconform contract check --update-uncovered` adds and drops rows and keeps
# the reasons.
"""


@dataclass(frozen=True, slots=True)
class Test:
    """A test function of the suites.

    Attributes:
        requirements: The ids of its marks, None for one that is no literal.
        steady: It, or its module, has the mark `steady`: it is run on a VM of every provenance.
    """

    name: str
    file: str
    line: int
    requirements: tuple[str | None, ...]
    steady: bool

    __test__ = False  # for pytest this is no test class

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A requirement that is known to have no test. `since` is a version of the contract."""

    id: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One disagreement and the place to mend it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def check(suites: Path, folder: Traversable | None = None) -> Sequence[Problem]:
    """Every disagreement between the contract in `folder` (that of this package) and the tests in `suites`."""
    home = folder or resources.files("conformance.contract")
    try:
        contract = load() if folder is None else read(home)
        published = uncovered(home)
    except ContractError as error:
        return [Problem("contract", error.message)]
    try:
        found = find_tests(suites)
    except SyntaxError as error:
        return [Problem(f"{error.filename}:{error.lineno}", f"is not Python: {error.msg}")]
    return [*_of_tests(found, contract), *_of_coverage(published, coverage(found), contract)]


def suites_folder() -> Path | None:
    """Where the suites are installed, found without importing them; None when they are not."""
    spec = importlib.util.find_spec("suites")
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def find_tests(suites: Path) -> Sequence[Test]:
    """The test functions of every ``test_*.py`` below a folder, by file and line; raises `SyntaxError`."""
    found: list[Test] = []
    for path in sorted(suites.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        file = path.relative_to(suites.parent).as_posix()
        names = {MARK, *_aliases(tree)}
        module_steady = any(_is_steady(mark) for mark in _module_marks(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                steady = module_steady or any(_is_steady(decorator) for decorator in node.decorator_list)
                found.append(Test(node.name, file, node.lineno, tuple(_marks(node.decorator_list, names)), steady))
    return found


def coverage(found: Iterable[Test]) -> Mapping[str, Sequence[Test]]:
    """The tests of each requirement that has one."""
    by_id: dict[str, list[Test]] = {}
    for test in found:
        for id in test.requirements:
            if id is not None:
                by_id.setdefault(id, []).append(test)
    return by_id


def uncovered(folder: Traversable | None = None) -> Sequence[Uncovered]:
    """The published list of requirements without a test; raises `ContractError` when it is malformed."""
    file = (folder or resources.files("conformance.contract")) / UNCOVERED
    if not file.is_file():
        return []
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8")).get("uncovered", [])
        return [Uncovered(**row) for row in rows]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ContractError(f"{UNCOVERED}: {error}", hint="hvconform contract check --update-uncovered") from error


def uncovered_toml(contract: Contract, covered: Mapping[str, object], published: Iterable[Uncovered]) -> str:
    """The list as it should be: what was published keeps its reason, what has a test by now is dropped."""
    known = {row.id: row for row in published}
    parts = [UNCOVERED_HEAD]
    for id in contract.requirements:
        if id not in covered:
            row = known.get(id, Uncovered(id, NOT_WRITTEN, contract.version))
            parts.append(f'[[uncovered]]\nid = "{id}"\nreason = "{_escape(row.reason)}"\nsince = "{row.since}"\n')
    return "\n".join(parts)


def _of_tests(found: Iterable[Test], contract: Contract) -> Iterator[Problem]:
    first: dict[str, Test] = {}
    for test in found:
        if not test.requirements:
            yield Problem(test.where, f"{test.name} says no requirement; mark it with @pytest.mark.{MARK}(id)")
        for id in test.requirements:
            if id is None:
                yield Problem(test.where, f"{test.name}: write the id of the requirement as a literal")
                continue
            try:
                requirement = contract.get(id)
            except UnknownRequirement as error:
                yield Problem(test.where, error.message)
                continue
            if test.name != (wanted := _name(id)):
                yield Problem(test.where, f"the test of {id} is called {wanted}, not {test.name}")
            if test.steady and not requirement.steady:
                yield Problem(test.where, f"{test.name} is run on every provenance, but {id} is not steady")
            if other := first.get(id):
                yield Problem(test.where, f"{id} is tested already by {other.name} ({other.where})")
            first.setdefault(id, test)


def _of_coverage(
    published: Sequence[Uncovered], covered: Mapping[str, Sequence[Test]], contract: Contract
) -> Iterator[Problem]:
    seen: set[str] = set()
    for row in published:
        if row.id in seen:
            yield Problem(UNCOVERED, f"{row.id} is listed twice")
        seen.add(row.id)
        if row.id not in contract.requirements:
            yield Problem(UNCOVERED, UnknownRequirement(row.id, contract.requirements).message)
        elif row.id in covered:
            yield Problem(UNCOVERED, f"{row.id} has a test by now ({covered[row.id][0].where}); take it off the list")
        if not row.reason.strip():
            yield Problem(UNCOVERED, f"{row.id} has no reason")
    for id, requirement in contract.requirements.items():
        if id not in covered and id not in seen:
            yield Problem(
                f"{requirement.area}.toml", f"{id} ({requirement.level}) has no test and is not in {UNCOVERED}"
            )


def _name(id: str) -> str:
    return "test_" + id.replace(".", "_").replace("-", "_")


def _aliases(tree: ast.Module) -> Iterator[str]:
    """Names that stand for the mark, as in ``requirement = pytest.mark.requirement``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == MARK:
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _module_marks(tree: ast.Module) -> Iterator[ast.expr]:
    """The marks in ``pytestmark``, be it one or a list."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and "pytestmark" in [getattr(target, "id", "") for target in node.targets]:
            yield from node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]


def _is_steady(mark: ast.expr) -> bool:
    return isinstance(mark, ast.Attribute) and mark.attr == STEADY_MARK


def _marks(decorators: Iterable[ast.expr], names: set[str]) -> Iterator[str | None]:
    for decorator in decorators:
        if not isinstance(decorator, ast.Call):
            continue
        mark = decorator.func
        if (isinstance(mark, ast.Attribute) and mark.attr == MARK) or (isinstance(mark, ast.Name) and mark.id in names):
            yield from (_literal(argument) for argument in decorator.args)


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
