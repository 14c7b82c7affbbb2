"""Data and verifiers."""
