"""Rewards: pure functions of an outcome."""
