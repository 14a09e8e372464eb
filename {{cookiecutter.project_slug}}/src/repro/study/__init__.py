"""Many recipes: what to try, in which order, on which machine, and the table that comes of it."""
