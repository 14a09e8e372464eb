"""What surrounds a run: determinism, what libraries and machine say, variations on purpose."""
