"""This room reads and checks the parameters, and says which lock is installed. It knows nothing
about running.
"""
