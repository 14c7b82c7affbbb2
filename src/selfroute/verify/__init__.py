"""Verifiers: whether an answer is right, and how its text is read. Tasks pick one; nothing here knows a data set."""
