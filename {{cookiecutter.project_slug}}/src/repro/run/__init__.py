"""This room makes one run: the launcher, the fresh process, and the directory that they leave."""
