"""A script that somebody has already: it is run twice as it is, watched, and compared.

The modules with names in `watch` and `process`, `guarding` and `settings` run inside the fresh
process of the script. They need the standard library and NumPy alone.
"""
