"""Tests of the interfaces that everything else is built on."""
