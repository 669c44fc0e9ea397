"""Pictures on a screen, frame by frame, and what was really shown when."""
