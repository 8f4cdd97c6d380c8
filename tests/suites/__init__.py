"""The suites themselves are tested: seeded defects must be caught."""
