"""How: one resource manager each."""
