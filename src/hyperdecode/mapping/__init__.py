"""Maps over the brain: what a decoder loses without the voxels around each voxel, and the layer that loses most."""
