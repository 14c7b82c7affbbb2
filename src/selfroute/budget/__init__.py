"""Limits on cloud use and the ledgers that keep them."""
