"""This room is the command `repro`: what it accepts, what it prints, and its exit status."""
