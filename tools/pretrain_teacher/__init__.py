"""Pretraining of the teacher on generated images, and what it is worth."""
