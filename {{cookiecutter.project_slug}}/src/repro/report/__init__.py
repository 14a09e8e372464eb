"""Pages of what runs and studies left, for people to look at."""
