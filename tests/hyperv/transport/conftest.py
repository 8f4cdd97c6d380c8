"""The transport suite's ways to the endpoint: both transports, over NTLM-encrypted HTTP and over HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drivers.hyperv.transport import Command, Secret, Transport, WinrmSettings, open_transport
from labs.hyperv_double.endpoint import Account, Endpoint, Limits
from labs.kvm import certificates
from tests.hyperv.transport.engine import Echo

PASSWORD = "c0rrect-h0rse-staple"
USER = "lab"
SECONDS = 15.0
"""More than any call here needs, also on a busy machine."""


@dataclass(frozen=True)
class Way:
    """One way to an endpoint."""

    transport: str
    scheme: str
    auth: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.auth}-{self.scheme}"


DEFAULT = Limits()

WAYS = [
    Way(transport, scheme, auth)
    for transport in ("winrs", "psrp")
    for scheme, auth in (("http", "ntlm"), ("https", "ntlm"), ("https", "basic"))
]


@dataclass
class Bench:
    """An endpoint, its engine and the transports to it, all of which are closed after the test."""

    way: Way
    authority: Path
    engine: Echo = field(default_factory=Echo)
    endpoints: list[Endpoint] = field(default_factory=list)
    transports: list[Transport] = field(default_factory=list)
    files: tuple[Path, Path] | None = None

    def serve(
        self,
        *,
        limits: Limits = DEFAULT,
        binding: bytes | None = None,
        expired: bool = False,
        authority: Path | None = None,
        user: str = USER,
    ) -> Endpoint:
        endpoint = Endpoint(
            self.engine,
            accounts={user: Account(PASSWORD, expired=expired)},
            authority=authority,
            certificate=self.files if self.way.scheme == "https" else None,
            binding=binding,
            limits=limits,
        )
        self.endpoints.append(endpoint)
        return endpoint

    def settings(self, endpoint: Endpoint, **changes: object) -> WinrmSettings:
        values: dict[str, object] = {
            "endpoints": {"hv1": endpoint.url},
            "transport": self.way.transport,
            "auth": self.way.auth,
            "user": USER,
            "password_env": "HV_PASSWORD",
            "ca_file": str(self.authority),
        }
        return WinrmSettings.model_validate({**values, **changes})

    def connect(self, endpoint: Endpoint, password: str = PASSWORD, **changes: object) -> Transport:
        transport = open_transport("hv1", self.settings(endpoint, **changes), Secret(password), check=lambda _: None)
        self.transports.append(transport)
        return transport

    @contextmanager
    def in_background(self, work: Callable[[], object]) -> Iterator[None]:
        """Do `work` in a thread meanwhile; what it raises is raised at the end."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            try:
                yield
            finally:
                self.engine.go.set()
            future.result()

    def close(self) -> None:
        self.engine.go.set()
        for transport in self.transports:
            transport.close()
        leaked = [endpoint.open_shells for endpoint in self.endpoints]
        for endpoint in self.endpoints:
            endpoint.close()
        assert leaked == [0] * len(leaked), "shells were left on the host"


@pytest.fixture(scope="session")
def certificate_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificates.write(folder, {"localhost": ["127.0.0.1"]})
    return folder


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    assert isinstance(request.param, Way)
    return request.param


@pytest.fixture
def make_bench(certificate_files: Path) -> Iterator[Callable[[Way], Bench]]:
    made: list[Bench] = []

    def make(way: Way) -> Bench:
        folder = certificate_files
        bench = Bench(way, folder / "cacert.pem", files=(folder / "servercert.pem", folder / "serverkey.pem"))
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[[Way], Bench], way: Way) -> Bench:
    return make_bench(way)


@pytest.fixture
def endpoint(bench: Bench) -> Endpoint:
    return bench.serve()


@pytest.fixture
def transport(bench: Bench, endpoint: Endpoint) -> Transport:
    return bench.connect(endpoint)


@pytest.fixture
def engine(bench: Bench) -> Echo:
    return bench.engine


def ask(transport: Transport, cmdlet: str = "Get-VM", seconds: float = SECONDS, **parameters: object) -> object:
    """Run one cmdlet and return its objects."""
    return transport.invoke([Command(cmdlet, parameters)], deadline_s=seconds).objects  # type: ignore[arg-type]
