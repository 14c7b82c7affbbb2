"""What every page that we write shares: its head and style, tables, terms, and the canvas of its figures."""
