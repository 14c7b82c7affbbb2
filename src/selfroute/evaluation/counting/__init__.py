"""Records to numbers: pure functions, no model, no file but the records."""
