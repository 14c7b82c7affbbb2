"""Tuners over one black box: what a user would pick instead, and the paper's parent."""
