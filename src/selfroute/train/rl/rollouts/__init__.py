"""How attempts are made: one file per way."""
