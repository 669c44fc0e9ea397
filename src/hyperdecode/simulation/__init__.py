"""Subjects whose truth is known."""
