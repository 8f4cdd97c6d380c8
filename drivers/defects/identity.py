"""Defects in names, identities, sizes at creation and NICs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from conformance.driver import Completed, Operation
from conformance.errors import NotFound
from conformance.model import NicSpec, VmSpec, VmState
from drivers.wrapping import Wrapper, wrapping


class WildcardFind(Wrapper):
    def find(self, name: str) -> str:
        for id in self.inner.list():
            if fnmatchcase(self.inner.get(id).name, name + "*"):
                return str(id)
        raise NotFound(f"no VM {name!r}", operation="find", vm=name)


class WrongUuid(Wrapper):
    """The first three fields in the other byte order, as some firmware shows them."""

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        first, second, third, rest = state.uuid.split("-", 3)

        def swap(field: str) -> str:
            return bytes.fromhex(field)[::-1].hex()

        return replace(state, uuid=f"{swap(first)}-{swap(second)}-{swap(third)}-{rest}")


class AsciiNames(Wrapper):
    def create(self, spec: VmSpec) -> Operation[str]:
        name = spec.name.encode("ascii", "replace").decode()
        creating: Operation[str] = self.inner.create(replace(spec, name=name))
        return creating


class OneCpuOnly(Wrapper):
    def create(self, spec: VmSpec) -> Operation[str]:
        creating: Operation[str] = self.inner.create(replace(spec, vcpus=1))
        return creating


class LessMemory(Wrapper):
    def create(self, spec: VmSpec) -> Operation[str]:
        creating: Operation[str] = self.inner.create(replace(spec, memory_mib=spec.memory_mib * 3 // 4))
        return creating


def other_mac(mac: str) -> str:
    """A MAC that differs in its last byte."""
    return f"{mac[:-2]}{int(mac[-2:], 16) ^ 0xA5:02x}"


class WrongMac(Wrapper):
    """Every NIC but the first gets another MAC than asked for."""

    def create(self, spec: VmSpec) -> Operation[str]:
        nics = tuple(replace(nic, mac=other_mac(nic.mac)) if at else nic for at, nic in enumerate(spec.nics))
        creating: Operation[str] = self.inner.create(replace(spec, nics=nics))
        return creating


class NetworksMixedUp(Wrapper):
    """The second NIC lands in the first one's network."""

    def create(self, spec: VmSpec) -> Operation[str]:
        nics = tuple(replace(nic, network=spec.nics[0].network) for nic in spec.nics)
        creating: Operation[str] = self.inner.create(replace(spec, nics=nics))
        return creating


class AntiSpoofIgnored(Wrapper):
    def create(self, spec: VmSpec) -> Operation[str]:
        nics = tuple(replace(nic, anti_spoof=False) for nic in spec.nics)
        creating: Operation[str] = self.inner.create(replace(spec, nics=nics))
        return creating


class HotNicWrongMac(Wrapper):
    def attach_nic(self, vm: str, nic: NicSpec) -> Operation[str]:
        attaching: Operation[str] = self.inner.attach_nic(vm, replace(nic, mac=other_mac(nic.mac)))
        return attaching


class WrongNicUnplugged(Wrapper):
    def detach_nic(self, vm: str, nic: str) -> Operation[None]:
        others = [state.id for state in self.inner.get(vm).nics if state.id != nic]
        detaching: Operation[None] = self.inner.detach_nic(vm, others[-1] if others else nic)
        return detaching


class LinkIgnored(Wrapper):
    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]:  # noqa: ARG002
        self.inner.get(vm)
        return Completed(None)


class OldHostReported(Wrapper):
    """Goes on reporting the host that it saw first."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._seen: dict[str, str] = {}

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        return replace(state, host=self._seen.setdefault(vm, state.host))


class ListsHalf(Wrapper):
    def list(self) -> Sequence[str]:
        return list(self.inner.list())[1:]


DEFECTS = (
    wrapping(
        "wildcard-find",
        WildcardFind,
        "lamw/vmware-scripts#75",
        "`vm` also finds `vm1`",
        ("id.lookup-exact",),
        "driver",
    ),
    wrapping(
        "uuid-byte-order",
        WrongUuid,
        "libvirt 12.4.0 NEWS, esx: ids that are not what the guest shows",
        "The reported UUID is not the guest's",
        ("id.smbios-uuid-matches",),
        "guest",
    ),
    wrapping(
        "ascii-names",
        AsciiNames,
        "nova LP#1768807",
        "Names are mangled to ASCII",
        ("id.name-unicode",),
        "host",
    ),
    wrapping(
        "one-cpu-only", OneCpuOnly, "synthetic: vCPUs ignored", "Every VM has one vCPU", ("boot.cpu-count",), "guest"
    ),
    wrapping(
        "less-memory",
        LessMemory,
        "synthetic: memory in the wrong unit",
        "A quarter of the memory is missing",
        ("boot.memory-size",),
        "guest",
    ),
    wrapping(
        "wrong-mac",
        WrongMac,
        "synthetic: MAC generated instead of taken",
        "A NIC has another MAC than asked for",
        ("boot.nic-count-and-mac",),
        "guest",
    ),
    wrapping(
        "networks-mixed-up",
        NetworksMixedUp,
        "libvirt NEWS, section above v6.10.0: two networks on one bridge",
        "NICs of different networks meet on one",
        ("net.multi-nic-order",),
        "wire",
    ),
    wrapping(
        "anti-spoof-ignored",
        AntiSpoofIgnored,
        "OpenNebula/one#6759: a bad rule leaves the VM unprotected",
        "Forged frames pass",
        ("net.mac-spoof-blocked", "net.ip-spoof-blocked"),
        "wire",
    ),
    wrapping(
        "hot-nic-wrong-mac",
        HotNicWrongMac,
        "synthetic: MAC generated instead of taken",
        "A hot-plugged NIC has another MAC than asked for",
        ("nic.hotplug",),
        "guest",
    ),
    wrapping(
        "nic-unplug-wrong-one",
        WrongNicUnplugged,
        "nova LP#1892870: a late detach hits another port",
        "Another NIC is unplugged than asked for",
        ("nic.hotunplug-right-one",),
        "guest",
    ),
    wrapping(
        "link-state-ignored",
        LinkIgnored,
        "synthetic: link state kept in the API only",
        "Link down changes nothing",
        ("net.link-state",),
        "guest",
    ),
    wrapping(
        "stale-host-reported",
        OldHostReported,
        "nova LP#1905944: the source is still reported",
        "The old host is reported after a migration",
        ("mig.host-reported",),
        "host",
    ),
    wrapping(
        "list-incomplete",
        ListsHalf,
        "LP#1878579: a compare drops VMs from the list",
        "A VM is missing from the list",
        ("state.list-equals-host",),
        "host",
    ),
)
