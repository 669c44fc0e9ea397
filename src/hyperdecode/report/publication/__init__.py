"""Figures for a journal: the analogues of the paper's Figures 2 to 8, at column width, their text as text."""
