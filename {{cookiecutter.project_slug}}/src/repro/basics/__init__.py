"""This room holds what every room needs: errors, files, digests, seeds, locks. It imports no other
room.
"""
