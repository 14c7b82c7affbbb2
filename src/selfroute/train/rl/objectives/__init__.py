"""How rewards become a gradient: one file per objective."""
