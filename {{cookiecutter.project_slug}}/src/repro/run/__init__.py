"""One run: the launcher, the fresh process, and the directory that is left."""
