"""Weight files to tensors, running no code that is in them."""
