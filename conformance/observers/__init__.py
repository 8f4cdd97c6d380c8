"""Observers: what the guest, the host and the wire show. None of them ever imports a driver (a test enforces it)."""
