"""This room plans and runs many recipes, on one machine or on many, and makes a table of their
results.
"""
