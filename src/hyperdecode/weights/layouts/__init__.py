"""From the tensors of a weight file, by the names of its framework, to those of our networks; one module a family."""
