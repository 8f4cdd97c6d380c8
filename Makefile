# The commands of the README are `make conformance`, `make conformance-xen` and `make test`; each sets up what it needs.
VENV ?= .venv
OUT ?= results/kvm
# each worker has a lab of its own and keeps about one core busy
WORKERS ?= $(shell cores=$$(nproc); [ $$cores -lt 4 ] && echo $$cores || echo 4)
# Xen hosts: no root. Of a cell's two hosts mostly one works, so that each worker keeps about one core busy, and takes up
# to 5 GB of memory
XEN_OUT ?= results/xen
XEN_TARGET ?= xen-pv
XEN_WORKERS ?= $(shell awk -v n="$$(nproc)" '/^MemAvailable/ { room = int($$2 / 5000000) } \
	END { if (n > 4) n = 4; if (n > room) n = room; print n < 1 ? 1 : n }' /proc/meminfo)
BOTH_OUT ?= results/kvm-and-xen
# the nested KVM lab makes namespaces and mounts, which needs root
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

# what tox made in here as root; hvconform gives back what it made itself
GIVE_BACK := [ -z "$(SUDO)" ] || sudo chown -fhR --from=root "$$(id -u):$$(id -g)" . "$$HOME/.cache/virtualenv" "$$HOME/.cache/scapy"
KVM_RUN = $(SUDO) $(VENV)/bin/hvconform run --lab kvm -n $(WORKERS) --out $(OUT)

.PHONY: setup setup-test conformance conformance-xen test test-xen clean

conformance: setup  ## the contract on real QEMU guests between two libvirt hosts: lab up, run, lab down, matrix
	$(KVM_RUN)

# a run that found failures ends with a status of its own: the matrix is made all the same, and the status kept
conformance-xen: setup $(OUT)/record  ## the contract on two nested Xen hosts; KVM's column, run if need be, beside it
	@status=0; \
	$(VENV)/bin/hvconform run --lab xen --target $(XEN_TARGET) -n $(XEN_WORKERS) --out $(XEN_OUT) || status=$$?; \
	$(VENV)/bin/hvconform report --no-allure --out $(BOTH_OUT) $(OUT) $(XEN_OUT) && \
	$(VENV)/bin/hvconform matrix $(OUT) $(XEN_OUT); \
	exit $$status

$(OUT)/record:
	-$(KVM_RUN)

test-xen: setup-test  ## what needs nested Xen hosts: minutes, so not part of test
	$(VENV)/bin/tox run -e xen

test: setup-test  ## lint, types, the harness's own tests, the contract on the simulated world, a selection on real guests
	@$(SUDO) $(VENV)/bin/tox run; code=$$?; $(GIVE_BACK); exit $$code

# the tests of hosts reached by SSH and with passwords, and of leases, talk to real servers, which they start themselves;
# redis-tools has Redis' server without a service of the machine
setup-test:
	@VENV=$(VENV) tools/setup openssh-server sasl2-bin libsasl2-modules redis-tools

setup:  ## system packages and the virtual environment
	@VENV=$(VENV) tools/setup

clean:  ## nothing that cannot be made again
	rm -rf $(VENV) .tox build dist
