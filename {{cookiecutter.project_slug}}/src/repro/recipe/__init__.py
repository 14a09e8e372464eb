"""Parameters, how they are read, the lock that is installed. It knows nothing of running."""
