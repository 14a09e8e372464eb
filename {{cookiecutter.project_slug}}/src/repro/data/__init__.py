"""What a data function returns, its files and their lock, its splits. It knows nothing of runs."""
