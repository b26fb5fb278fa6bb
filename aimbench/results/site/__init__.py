"""A static site of the registry: leaderboards, runs, methods and datasets, from records and cards alone."""
