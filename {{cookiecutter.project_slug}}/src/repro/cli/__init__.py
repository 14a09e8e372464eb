"""This room is the command `repro`: its arguments, what it prints, and its exit status."""
