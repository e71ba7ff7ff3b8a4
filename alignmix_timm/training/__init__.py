"""One training engine, exact when resumed."""
