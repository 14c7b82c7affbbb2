"""Decoding in plain torch, for every model that runs in this process."""
