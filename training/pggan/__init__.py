"""Train a PGGAN for a stimulus class of your own: progressive growing as published (Karras et al. 2018, ICLR).

From the repository's root::

    python -m training.pggan train --data pool --out runs/faces128              # or --data FOLDER of PNG / JPEG files
    python -m training.pggan train --data pool --out runs/faces128              # the same again: goes on where it was
    python -m training.pggan export --run runs/faces128 --to faces128.safetensors

`train --help` lists the settings; on a GPU add ``--device cuda --precision bfloat16`` (or ``tf32``). A run writes, all
of it whole or not at all, ``state.json`` and the tensors it names, ``log.jsonl`` and sheets of samples.

What differs from the authors' code: the average is taken behind the generator's step, not before it; alpha moves with
every batch, not every fourth; real pictures are drawn with replacement; scaling and convolution are not fused (the
sums are the same); and the default widths are smaller (`settings.Settings`).

``networks`` holds the two networks, ``settings`` what may be chosen and the schedule that follows from it, ``data`` the
real pictures, ``loss`` WGAN-GP, ``loop`` the training itself, ``checkpoint`` its state on the disk, ``export`` the way
to `hyperdecode.generators.PGGAN`.
"""
