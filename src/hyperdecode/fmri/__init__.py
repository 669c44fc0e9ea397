"""BOLD to z-maps: realign, normalise, single-trial GLM, voxel mask; arrays in, arrays out, no paths."""
