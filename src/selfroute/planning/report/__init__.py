"""A placement for people: sentences, a table for the terminal, one page with figures."""
