"""hvconform: one lifecycle contract, run against every hypervisor driver.

This package is the harness. It knows no hypervisor; drivers, labs and reports plug into it.
"""

__version__ = "0.1.0"
