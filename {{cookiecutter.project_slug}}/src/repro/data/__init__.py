"""This room holds what a data function returns, the lock of its files, and the splits. It knows
nothing about runs.
"""
