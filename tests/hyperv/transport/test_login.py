"""Logging in: who is refused, what is checked before a byte is sent, and where the password comes from."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest

from conformance.errors import AccessDenied, HostUnreachable, LabFileError, MissingRequirement
from drivers.hyperv import transport as transports
from drivers.hyperv.transport import Secret, WinrmSettings
from drivers.hyperv.transport.settings import check_files, password
from labs.hyperv_double.endpoint import Endpoint
from labs.kvm import certificates
from tests.hyperv.transport.conftest import PASSWORD, USER, Bench, Way, ask

ALL = [Way(transport, scheme, "ntlm") for transport in ("winrs", "psrp") for scheme in ("http", "https")]

HTTPS = [Way(transport, "https", "ntlm") for transport in ("winrs", "psrp")]


def test_a_wrong_password_is_denied(bench: Bench, endpoint: Endpoint) -> None:
    with pytest.raises(AccessDenied) as caught:
        ask(bench.connect(endpoint, "another-s3cret"))
    assert caught.value.host == "hv1"
    bench.transports[-1].close()
    assert endpoint.counts.refused == 1, "each further try counts towards a lockout"
    assert "another-s3cret" not in f"{caught.value} {caught.value!r}"
    assert endpoint.counts.requests == {}


def test_a_login_takes_no_name_out_of_the_environment(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the client's part nor the double's: another thread that goes through all of them would break."""

    def gone(_: object, name: str) -> None:
        raise AssertionError(f"{name} was there")

    names = set(os.environ)
    monkeypatch.setattr(type(os.environ), "__delitem__", gone)
    assert ask(bench.connect(endpoint)) != []
    assert set(os.environ) == names


def test_an_unknown_user_is_denied(bench: Bench, endpoint: Endpoint) -> None:
    with pytest.raises(AccessDenied):
        ask(bench.connect(endpoint, user="DOMAIN\\nobody"))


def test_an_expired_password_is_denied_and_named_as_a_reason(bench: Bench) -> None:
    with pytest.raises(AccessDenied, match="expired"):
        ask(bench.connect(bench.serve(expired=True)))


@pytest.mark.parametrize("way", HTTPS, ids=str)
def test_another_channel_binding_is_denied(bench: Bench) -> None:
    with pytest.raises(AccessDenied, match="channel binding"):
        ask(bench.connect(bench.serve(binding=b"somebody in the middle")))


@pytest.mark.parametrize("way", HTTPS, ids=str)
def test_an_untrusted_certificate_is_refused_before_the_login(bench: Bench, tmp_path: Path) -> None:
    certificates.write(tmp_path, {"localhost": ["127.0.0.1"]})
    endpoint = bench.serve()
    with pytest.raises(HostUnreachable, match="ca_file"):
        ask(bench.connect(endpoint, ca_file=str(tmp_path / "cacert.pem")))
    with pytest.raises(HostUnreachable, match="ca_file"):
        ask(bench.connect(endpoint, ca_file=""))
    assert endpoint.counts.logins == 0
    assert endpoint.counts.requests == {}


@pytest.mark.parametrize("way", HTTPS, ids=str)
def test_a_certificate_of_another_name_is_refused(bench: Bench, tmp_path: Path) -> None:
    certificates.write(tmp_path, {"elsewhere": ["192.0.2.1"]})
    bench.files = (tmp_path / "servercert.pem", tmp_path / "serverkey.pem")
    with pytest.raises(HostUnreachable, match="ca_file"):
        ask(bench.connect(bench.serve(), ca_file=str(tmp_path / "cacert.pem")))


@pytest.mark.parametrize("way", HTTPS, ids=str)
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verification_is_off_only_when_it_is_said(bench: Bench) -> None:
    assert ask(bench.connect(bench.serve(), ca_file="", verify=False)) != []


def test_a_proxy_or_netrc_of_the_environment_has_no_say(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    netrc.chmod(stat.S_IRUSR)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert ask(bench.connect(endpoint)) != []


def test_the_login_can_be_passed_on_only_where_it_was_delegated(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "find_spec", lambda _: True)
    assert not bench.connect(endpoint).delegates
    assert bench.connect(endpoint, auth="kerberos", kerberos_delegation=True).delegates
    assert not bench.connect(endpoint, auth="kerberos").delegates
    if bench.way.scheme == "https":
        assert bench.connect(endpoint, auth="credssp").delegates


@pytest.mark.parametrize("way", ALL, ids=str)
def test_credssp_hands_the_login_over_for_a_second_hop(bench: Bench, endpoint: Endpoint) -> None:
    transport = bench.connect(endpoint, auth="credssp")
    assert ask(transport, Name="x" * 50_000) != []  # more than a TLS record holds
    assert len(ask(transport, "Many", Count=50)) == 50  # type: ignore[arg-type]
    session = bench.engine.sessions[-1]
    assert (session.user, session.auth, session.delegated) == (USER, "credssp", True)
    assert (endpoint.counts.clear == 0) == (bench.way.scheme == "http")


@pytest.mark.parametrize("way", ALL, ids=str)
def test_a_wrong_password_is_denied_by_credssp_too(bench: Bench, endpoint: Endpoint) -> None:
    with pytest.raises(AccessDenied):
        ask(bench.connect(endpoint, "another-s3cret", auth="credssp"))
    assert endpoint.counts.logins == 0
    assert endpoint.counts.requests == {}


@pytest.mark.parametrize("way", HTTPS, ids=str)
def test_a_client_certificate_is_a_login(bench: Bench, certificate_files: Path, tmp_path: Path) -> None:
    files = {name: str(certificate_files / f"{name}.pem") for name in ("clientcert", "clientkey")}
    options = {"auth": "certificate", "user": "", "password_env": ""}
    endpoint = bench.serve(authority=certificate_files / "cacert.pem", user="localhost")
    good = bench.connect(endpoint, client_cert=files["clientcert"], client_key=files["clientkey"], **options)
    assert ask(good) != []
    assert (bench.engine.sessions[-1].user, bench.engine.sessions[-1].auth) == ("localhost", "certificate")

    nobody = bench.serve(authority=certificate_files / "cacert.pem")
    with pytest.raises(AccessDenied, match="client certificate that it knows"):
        ask(bench.connect(nobody, client_cert=files["clientcert"], client_key=files["clientkey"], **options))

    certificates.write(tmp_path, {"localhost": ["127.0.0.1"]})
    foreign = {"client_cert": str(tmp_path / "clientcert.pem"), "client_key": str(tmp_path / "clientkey.pem")}
    with pytest.raises(HostUnreachable):
        ask(bench.connect(endpoint, **foreign, **options))


@pytest.mark.parametrize("auth", ["kerberos", "credssp"])
def test_a_missing_library_is_named_before_anybody_is_contacted(
    bench: Bench, endpoint: Endpoint, auth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "find_spec", lambda _: None)
    with pytest.raises(MissingRequirement, match=f"auth = {auth}") as caught:
        bench.connect(endpoint, auth=auth)
    assert f"hvconform[hyperv-{auth}]" in caught.value.hint
    assert endpoint.counts.connections == 0


# options


def settings(**values: object) -> WinrmSettings:
    base = {"endpoints": {"hv1": "https://hv1.example:5986/wsman"}, "user": USER, "password_env": "HV_PASSWORD"}
    return WinrmSettings.model_validate({**base, **values})


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"endpoints": {"hv1": "http://hv1:5985/wsman"}, "auth": "basic"}, "only over https"),
        ({"endpoints": {"hv1": "http://hv1:5985/wsman"}, "auth": "certificate"}, "only over https"),
        ({"endpoints": {"hv1": "https://lab:s3cret@hv1/wsman"}}, "does not belong into the URL"),
        ({"endpoints": {"hv1": "ssh://hv1"}}, "not an http or https URL"),
        ({"user": ""}, "needs user"),
        ({"password_env": ""}, "exactly one of"),
        ({"password_file": "/x"}, "exactly one of"),
        ({"auth": "certificate", "password_env": ""}, "client_cert"),
        ({"auth": "digest"}, "auth"),
        ({"password": "s3cret"}, "password"),
    ],
)
def test_a_bad_option_is_refused_before_anybody_is_contacted(values: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        settings(**values)
    shown = [item["msg"] for item in caught.value.errors()]  # type: ignore[attr-defined]
    assert "s3cret" not in str(shown)


def test_kerberos_may_use_the_ticket_that_is_there() -> None:
    assert password(settings(auth="kerberos", user="", password_env="")).reveal() == ""


def test_the_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HV_PASSWORD", PASSWORD)
    assert password(settings()).reveal() == PASSWORD
    monkeypatch.delenv("HV_PASSWORD")
    with pytest.raises(LabFileError, match="HV_PASSWORD is not set"):
        password(settings())


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    options = settings(password_env="", password_file=str(file))
    with pytest.raises(LabFileError, match="No such file"):
        password(options)
    file.write_text("")
    with pytest.raises(LabFileError, match="is empty"):
        password(options)
    file.write_text(f"{PASSWORD}\nanother line\n")
    assert password(options).reveal() == PASSWORD


class Ring(keyring.backend.KeyringBackend):
    """A keyring with one password."""

    priority = 1  # type: ignore[assignment]

    def get_password(self, service: str, username: str) -> str | None:
        return PASSWORD if (service, username) == ("hyperv", USER) else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


def test_the_password_comes_from_a_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "get_password", Ring().get_password)
    assert password(settings(password_env="", password_keyring="hyperv")).reveal() == PASSWORD
    with pytest.raises(LabFileError, match="no password of other"):
        password(settings(password_env="", password_keyring="other"))

    def none(*_: str) -> str:
        raise keyring.errors.NoKeyringError("none here")

    monkeypatch.setattr(keyring, "get_password", none)
    with pytest.raises(MissingRequirement, match="none here"):
        password(settings(password_env="", password_keyring="hyperv"))


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match="ca_file"):
        check_files(settings(ca_file=str(tmp_path / "none.pem")))
    certificates.write(tmp_path, {"localhost": ["127.0.0.1"]})
    cert, key = str(tmp_path / "clientcert.pem"), str(tmp_path / "clientkey.pem")
    check_files(settings(auth="certificate", password_env="", client_cert=cert, client_key=key))
    with pytest.raises(LabFileError, match="client_key"):
        check_files(settings(auth="certificate", password_env="", client_cert=cert, client_key=cert))


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(PASSWORD)
    assert PASSWORD not in f"{secret!r} {secret} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert secret.scrub(f"<{PASSWORD}>") == "<***>"
    assert Secret("").scrub("text") == "text"


def test_passwords_with_every_kind_of_character_work(
    make_bench: Callable[[Way], Bench], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "p:a\"s's $(w) \u20ac \u2603"
    monkeypatch.setattr("tests.hyperv.transport.conftest.PASSWORD", odd)
    bench = make_bench(way)
    assert ask(bench.connect(bench.serve(), odd)) != []
