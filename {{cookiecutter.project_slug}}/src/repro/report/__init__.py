"""This room makes pages for people from what runs and studies left."""
