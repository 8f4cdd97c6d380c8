"""The suites: one test a requirement, the same bodies for every driver. No hypervisor is named here."""
