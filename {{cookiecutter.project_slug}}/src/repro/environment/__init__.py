"""This room fixes what surrounds a run, reads back what is in effect, and changes surroundings on
purpose.
"""
