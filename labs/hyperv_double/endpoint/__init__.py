"""A WinRM endpoint for tests: SOAP, authentication, shells and runspace pools in front of an `Engine`."""

from labs.hyperv_double.endpoint.knobs import Knobs, Planted
from labs.hyperv_double.endpoint.server import Account, Endpoint, Limits

__all__ = ["Account", "Endpoint", "Knobs", "Limits", "Planted"]
