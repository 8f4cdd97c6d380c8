# The two commands of the README are `make conformance` and `make test`; both set up what they need.
VENV ?= .venv
OUT ?= results/kvm
# each worker has a lab of its own and keeps about one core busy
WORKERS ?= $(shell cores=$$(nproc); [ $$cores -lt 4 ] && echo $$cores || echo 4)
# nested labs make namespaces and mounts, which needs root
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

# what tox made in here as root; hvconform gives back what it made itself
GIVE_BACK := [ -z "$(SUDO)" ] || sudo chown -fhR --from=root "$$(id -u):$$(id -g)" . "$$HOME/.cache/virtualenv" "$$HOME/.cache/scapy"

.PHONY: setup setup-test conformance test clean

conformance: setup  ## the contract on real QEMU guests between two libvirt hosts: lab up, run, lab down, matrix
	$(SUDO) $(VENV)/bin/hvconform run --lab kvm -n $(WORKERS) --out $(OUT)

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
