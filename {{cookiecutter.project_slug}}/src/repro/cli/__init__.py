"""The command `repro`: what can be asked, what is printed, and the exit status."""
