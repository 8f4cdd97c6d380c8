"""What the double's endpoints are called where nothing but an environment variable can say it."""

from __future__ import annotations

USER = "lab"
PASSWORD = "HVCONFORM_DOUBLE_PASSWORD"
"""The environment variable with the password of every endpoint's account, made up anew in each run."""


def variable(lab: str, host: str) -> str:
    """The environment variable that says where the endpoint of a host listens in this process."""
    return f"HVCONFORM_DOUBLE_{lab}_{host}".upper().replace("-", "_")
