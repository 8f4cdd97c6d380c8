"""A WinRM endpoint for tests: SOAP, authentication, shells and runspace pools in front of an `Engine`."""
