"""Tests of the package's part of the same name."""
