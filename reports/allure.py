"""Completes a folder of Allure results from the run record, and renders it with Allure 3."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conformance import errors
from conformance.errors import LabError
from conformance.record import ItemFinished, Verdict
from reports.history import End, History, Item
from reports.matrix import Matrix, Requirement
from reports.text import plain, write_atomic

PACKAGE = "allure@3"
NO_NODE = "the Allure report needs Node.js, and npx is not on the PATH; matrix.html and the others need none"
_STATUS = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.FLAKY: "failed",
    Verdict.LAB_ERROR: "broken",
    Verdict.NOT_RUN: "skipped",
    Verdict.NOT_CLAIMED: "skipped",
    Verdict.WAIVED: "skipped",
    Verdict.NOT_TESTABLE_HERE: "skipped",
}
# A first download of the package and a report of 20,000 results fit well within it.
_RENDER_SECONDS = 600
_SINGLE_FILE_BYTES = 64 * 1024 * 1024


def complete(results: Path, matrix: Matrix, history: History, titles: Mapping[str, str] | None = None) -> list[Path]:
    """Write what the results of allure-pytest lack, and return the paths written.

    That is ``environment.properties``, ``categories.json``, ``executor.json``, and a result for every item that has
    none: allure-pytest writes one when a test ends, so a worker that dies takes its own with it
    (allure-framework/allure-python#825). Where a result and the record disagree, the record is right: to pytest a clean
    refusal is a passed test, and residue is found after the test's body.

    Args:
        results: The folder of Allure results; made if missing.
        matrix: The matrix of the run.
        history: What happened in it.
        titles: The areas' titles, by name, as the plugin files its tests.
    """
    results.mkdir(parents=True, exist_ok=True)
    requirements = {requirement.id: requirement for requirement in matrix.requirements}
    there = _results(results)
    written = []
    for item in history.items.values():
        if found := there.get(_identity(item)):
            _reconcile(found[-1], item)
        else:
            requirement = requirements[item.requirement]
            feature = (titles or {}).get(requirement.area, requirement.area)
            written.append(_synthesize(results, item, requirement, feature, history.end))
    run = matrix.runs[-1]
    executor = {"name": "hvconform", "type": "hvconform", "buildName": f"run {run.id}", "reportName": "Conformance"}
    return [
        *written,
        write_atomic(results / "environment.properties", environment(matrix)),
        write_atomic(results / "categories.json", json.dumps(categories(), indent=1) + "\n"),
        write_atomic(results / "executor.json", json.dumps(executor, indent=1) + "\n"),
    ]


def _synthesize(results: Path, item: Item, requirement: Requirement, feature: str, end: End) -> Path:
    """The result of one item from what the record holds of it.

    Its history id is the one that allure-pytest gives the same test, so that a crash stands in the test's own history.
    """
    attempts = item.attempts(end)
    last = attempts[-1] if attempts else None
    verdict = last.verdict if last else Verdict.NOT_RUN
    name, values = _full_name(item.id), _values(item)
    title = requirement.statement or item.id.rpartition("::")[2]
    begun = item.starts[-1].time if item.starts else last.time - last.seconds if last else 0.0
    labels = {
        "epic": item.target,
        "feature": feature,
        "story": item.requirement,
        "requirement": item.requirement,
        "suite": name.partition("#")[0],
        "framework": "pytest",
        "thread": last.worker if last else "",
    }
    result = {
        "uuid": str(uuid.uuid4()),
        "historyId": _md5(name, *(values[key] for key in sorted(values))),
        "testCaseId": _md5(name),
        "fullName": name,
        "name": f"{title} [{item.provenance}]" if item.provenance else title,
        "status": _STATUS[verdict],
        "stage": "finished",
        "statusDetails": _details(verdict, last),
        "labels": [{"name": key, "value": plain(value, 500)} for key, value in labels.items() if value],
        "parameters": [{"name": key, "value": repr(value)} for key, value in values.items()],
        "steps": [_step(call.operation, call.seconds, call.error, call.arguments) for call in item.calls],
        "attachments": [_attach(results, name, text) for name, text in item.attachments],
        "start": round(1000 * begun),
        "stop": round(1000 * (last.time if last else begun)),
    }
    return write_atomic(results / f"{result['uuid']}-result.json", json.dumps(result))


def categories() -> list[dict[str, object]]:
    """The kinds of trouble, first match first, in the words of ``categories.json``."""
    lab = "|".join(sorted(kind.__name__ for kind in _kinds(LabError)))
    late = "Timeout|WaitTimeout|GuestSilent|deadline passed"
    # Allure 3 searches with JavaScript's syntax, Allure 2 matches the whole message with Java's: no inline flags.
    return [
        {"name": "Lab or harness errors", "matchedStatuses": ["broken"], "messageRegex": rf".*\b({lab})\b.*"},
        {
            "name": "Died, killed or interrupted",
            "matchedStatuses": ["broken"],
            "messageRegex": ".*(died|was killed|was interrupted) during.*",
        },
        {"name": "Residue on the hosts", "matchedStatuses": ["failed", "broken"], "messageRegex": ".*[Rr]esidue.*"},
        {"name": "Not in time", "matchedStatuses": ["failed", "broken"], "messageRegex": rf".*\b({late})\b.*"},
        {"name": "Broken requirements", "matchedStatuses": ["failed"]},
        {"name": "Errors of the harness", "matchedStatuses": ["broken"]},
        {"name": "Not claimed", "matchedStatuses": ["skipped"], "messageRegex": ".*not-claimed.*"},
        {"name": "Not testable here", "matchedStatuses": ["skipped"], "messageRegex": ".*not-testable-here.*"},
        {"name": "Not run", "matchedStatuses": ["skipped"], "messageRegex": ".*not-run.*"},
    ]


def environment(matrix: Matrix) -> str:
    """``environment.properties``: what ran, and every target with its evidence and facts."""
    values: dict[str, str] = {}
    for run in matrix.runs:
        values |= {"run": run.id, "contract": run.contract, "hvconform": run.hvconform, "python": run.python}
        values |= {"machine": run.machine, **run.packages}
    for target in matrix.targets:
        facts = {"evidence": str(target.evidence), "evidence note": target.evidence_note, "driver": target.driver}
        facts |= {"lab": target.lab, "seeded defect": target.defect, **target.facts}
        values |= {f"{target.target}.{name}": value for name, value in facts.items() if value}
    return "".join(f"{_property(name, key=True)} = {_property(value)}\n" for name, value in values.items())


def node() -> str | None:
    """Where npx is, which comes with Node.js; None where it is not."""
    return shutil.which("npx")


def render(results: Path, out: Path, *, name: str = "Conformance") -> Path:
    """Render results with Allure 3 into `out`, replacing an earlier report there, and return its ``index.html``.

    It is one file that opens without a web server, unless the results are too many for that. Nothing is installed for
    the whole machine: ``npx`` keeps the package in the npm cache.

    Raises:
        LabError: There are no results, no Node, Allure failed, or `out` holds something else than such a report; the
            other reports need none of this.
    """
    results, out = results.resolve(), out.resolve()
    if not any(results.glob("*-result.json")):
        raise LabError(f"{results} holds no Allure results", hint="give the folder that `hvconform run --out` wrote")
    if out.exists() and any(out.iterdir()) and not (out / "summary.json").exists():
        raise LabError(f"{out} holds something else than an Allure report", hint="give an empty or a new folder")
    npx = node()
    if npx is None:
        raise LabError(NO_NODE, hint="apt install nodejs npm (Node 20 or newer)")
    single = sum(path.stat().st_size for path in results.iterdir()) <= _SINGLE_FILE_BYTES
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=_made(out.parent)) as folder:
        fresh = Path(folder) / "report"
        options = {"reportName": name, "groupBy": ["epic", "feature", "story"], "singleFile": single}
        configuration = {
            "name": name,
            "output": str(fresh),
            "categories": categories(),
            "plugins": {"awesome": {"options": options}},
        }
        config = write_atomic(Path(folder) / "allurerc.json", json.dumps(configuration))
        said = _run([npx, "--yes", PACKAGE, "generate", "--config", str(config), "--cwd", folder, str(results)])
        if not (fresh / "index.html").exists():  # Allure 3.18 ends with 0 after an error in its configuration, too
            raise LabError(f"Allure made no report: {said}", hint="try `npx allure@3 --version`")
        if out.exists():
            shutil.rmtree(out)
        fresh.replace(out)
    return out / "index.html"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_RENDER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"Allure did not run: {error}", hint="try `npx allure@3 --version`") from error
    said = plain(done.stderr or done.stdout, 2_000).strip()
    if done.returncode:
        raise LabError(
            f"Allure failed with exit code {done.returncode}: {said}",
            hint="it needs Node 20 or newer and, the first time, the npm registry; try `npx allure@3 --version`",
        )
    return said


def _results(results: Path) -> dict[tuple[str, ...], list[Path]]:
    """The results there are by item, oldest first. Half a result is removed, so that its item gets a new one."""
    found: dict[tuple[str, ...], list[tuple[int, Path]]] = defaultdict(list)
    for path in results.glob("*-result.json"):
        try:
            result = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            values = {entry["name"]: str(entry["value"]).strip("'\"") for entry in result.get("parameters", [])}
            identity = (str(result["fullName"]), values.get("target", ""), values.get("provenance", ""))
            found[identity].append((int(result.get("stop") or 0), path))
        except (ValueError, KeyError, TypeError, AttributeError):
            path.unlink(missing_ok=True)  # Allure would stumble over it
    return {identity: [path for _, path in sorted(entries)] for identity, entries in found.items()}


def _reconcile(path: Path, item: Item) -> None:
    """Let an item's latest result say what its latest attempt came to in the record."""
    if not item.finishes:
        return
    last = max(item.finishes, key=lambda finish: finish.time)
    result = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    if result.get("status") == _STATUS[last.verdict]:
        return
    trace = (result.get("statusDetails") or {}).get("trace")
    result["status"] = _STATUS[last.verdict]
    result["statusDetails"] = _details(last.verdict, last) | ({"trace": trace} if trace else {})
    write_atomic(path, json.dumps(result))


def _identity(item: Item) -> tuple[str, ...]:
    values = _values(item)
    return _full_name(item.id), values["target"], values.get("provenance", "")


def _values(item: Item) -> dict[str, str]:
    """The item's pytest parameters: a test that is not run on every provenance has no parameter for it."""
    parameters = item.id.rpartition("[")[2].rstrip("]")
    steady = item.provenance and item.provenance in parameters.replace(item.target, "", 1)
    return {"target": item.target} | ({"provenance": item.provenance} if steady else {})


def _full_name(node: str) -> str:
    """As allure-pytest names a test: ``package.module.Class#function``."""
    path, *names = node.partition("[")[0].split("::")
    module = path.removesuffix(".py").replace("/", ".")
    return f"{'.'.join([module, *names[:-1]])}#{names[-1] if names else ''}"


def _details(verdict: Verdict, last: ItemFinished | None) -> dict[str, object]:
    why = (last.message or last.refusal) if last else "planned and never started"
    details: dict[str, object] = {"message": plain(f"{verdict}: {why}", 4_000), "flaky": verdict is Verdict.FLAKY}
    if last and last.detail:
        details["trace"] = plain(last.detail)
    return details


def _step(operation: str, seconds: float, error: str, arguments: str) -> dict[str, Any]:
    step: dict[str, Any] = {
        "name": f"{operation}({arguments}) · {seconds:.2f} s",
        "status": "broken" if error else "passed",
        "stage": "finished",
    }
    if error:
        step["statusDetails"] = {"message": error}
    return step


def _attach(results: Path, name: str, text: str) -> dict[str, str]:
    source = f"{uuid.uuid4()}-attachment.txt"
    write_atomic(results / source, text)
    return {"name": name, "source": source, "type": "text/plain"}


def _kinds(kind: type[errors.HarnessError]) -> Iterable[type[errors.HarnessError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _md5(*parts: str) -> str:
    """An identifier, as allure-pytest makes it; nothing rests on its being hard to forge."""
    return hashlib.md5("".join(parts).encode(), usedforsecurity=False).hexdigest()


def _property(text: str, *, key: bool = False) -> str:
    """Escaped as java.util.Properties reads it."""
    escaped = plain(text, 500).replace("\\", "\\\\").replace("\n", "\\n")
    if key:
        for special in " :=#!":
            escaped = escaped.replace(special, f"\\{special}")
    return escaped
