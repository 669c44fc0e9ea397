"""Works that a methods text may cite, by key: how it names them, and the line of the reference list."""

from __future__ import annotations

from collections.abc import Iterable

from hyperdecode.report.published import CITATION

__all__ = ["REFERENCES", "reference_list"]

REFERENCES: dict[str, tuple[str, str]] = {
    "nilearn": (
        "Abraham et al., 2014",
        "Abraham, A., Pedregosa, F., Eickenberg, M., et al. (2014). Machine learning for neuroimaging with "
        "scikit-learn. Frontiers in Neuroinformatics 8, 14.",
    ),
    "mobilestylegan": (
        "Belousov, 2021",
        "Belousov, S. (2021). MobileStyleGAN: A lightweight convolutional neural network for high-fidelity image "
        "synthesis. arXiv:2104.04767.",
    ),
    "fdr": (
        "Benjamini & Hochberg, 1995",
        "Benjamini, Y. & Hochberg, Y. (1995). Controlling the false discovery rate: a practical and powerful approach "
        "to multiple testing. Journal of the Royal Statistical Society B 57, 289-300.",
    ),
    "vggface2": (
        "Cao et al., 2018",
        "Cao, Q., Shen, L., Xie, W., Parkhi, O. M. & Zisserman, A. (2018). VGGFace2: a dataset for recognising faces "
        "across pose and age. IEEE International Conference on Automatic Face & Gesture Recognition, 67-74.",
    ),
    "hyper": ("Dado et al., 2022", CITATION),
    "fmriprep": (
        "Esteban et al., 2019",
        "Esteban, O., Markiewicz, C. J., Blair, R. W., et al. (2019). fMRIPrep: a robust preprocessing pipeline for "
        "functional MRI. Nature Methods 16, 111-116.",
    ),
    "mni": (
        "Fonov et al., 2011",
        "Fonov, V., Evans, A. C., Botteron, K., et al. (2011). Unbiased average age-appropriate atlases for pediatric "
        "studies. NeuroImage 54, 313-327.",
    ),
    "hcp-mmp1": (
        "Glasser et al., 2016",
        "Glasser, M. F., Coalson, T. S., Robinson, E. C., et al. (2016). A multi-modal parcellation of human cerebral "
        "cortex. Nature 536, 171-178.",
    ),
    "bids": (
        "Gorgolewski et al., 2016",
        "Gorgolewski, K. J., Auer, T., Calhoun, V. D., et al. (2016). The brain imaging data structure, a format for "
        "organizing and describing outputs of neuroimaging experiments. Scientific Data 3, 160044.",
    ),
    "ridge": (
        "Hoerl & Kennard, 1970",
        "Hoerl, A. E. & Kennard, R. W. (1970). Ridge regression: biased estimation for nonorthogonal problems. "
        "Technometrics 12, 55-67.",
    ),
    "pggan": (
        "Karras et al., 2018",
        "Karras, T., Aila, T., Laine, S. & Lehtinen, J. (2018). Progressive growing of GANs for improved quality, "
        "stability, and variation. International Conference on Learning Representations. arXiv:1710.10196.",
    ),
    "stylegan2": (
        "Karras et al., 2020",
        "Karras, T., Laine, S., Aittala, M., Hellsten, J., Lehtinen, J. & Aila, T. (2020). Analyzing and improving the "
        "image quality of StyleGAN. IEEE/CVF Conference on Computer Vision and Pattern Recognition, 8110-8119.",
    ),
    "stylegan3": (
        "Karras et al., 2021",
        "Karras, T., Aittala, M., Laine, S., Härkönen, E., Hellsten, J., Lehtinen, J. & Aila, T. (2021). Alias-free "
        "generative adversarial networks. Advances in Neural Information Processing Systems 34.",
    ),
    "dlib": (
        "King, 2009",
        "King, D. E. (2009). Dlib-ml: a machine learning toolkit. Journal of Machine Learning Research 10, 1755-1758.",
    ),
    "larsen": (
        "Larsen et al., 2016",
        "Larsen, A. B. L., Sønderby, S. K., Larochelle, H. & Winther, O. (2016). Autoencoding beyond pixels using a "
        "learned similarity metric. International Conference on Machine Learning, 1558-1566.",
    ),
    "lss": (
        "Mumford et al., 2012",
        "Mumford, J. A., Turner, B. O., Ashby, F. G. & Poldrack, R. A. (2012). Deconvolving BOLD activation in "
        "event-related designs for multivoxel pattern classification analyses. NeuroImage 59, 2636-2643.",
    ),
    "banded": (
        "Nunez-Elizalde et al., 2019",
        "Nunez-Elizalde, A. O., Huth, A. G. & Gallant, J. L. (2019). Voxelwise encoding models with non-spherical "
        "multivariate normal priors. NeuroImage 197, 482-492.",
    ),
    "torch": (
        "Paszke et al., 2019",
        "Paszke, A., Gross, S., Massa, F., et al. (2019). PyTorch: an imperative style, high-performance deep learning "
        "library. Advances in Neural Information Processing Systems 32, 8024-8035.",
    ),
    "sklearn": (
        "Pedregosa et al., 2011",
        "Pedregosa, F., Varoquaux, G., Gramfort, A., et al. (2011). Scikit-learn: machine learning in Python. Journal "
        "of Machine Learning Research 12, 2825-2830.",
    ),
    "interfacegan": (
        "Shen et al., 2020",
        "Shen, Y., Gu, J., Tang, X. & Zhou, B. (2020). Interpreting the latent space of GANs for semantic face "
        "editing. IEEE/CVF Conference on Computer Vision and Pattern Recognition, 9243-9252.",
    ),
    "target": (
        "Thaler et al., 2013",
        "Thaler, L., Schütz, A. C., Goodale, M. A. & Gegenfurtner, K. R. (2013). What is the best fixation target? The "
        "effect of target shape on stability of fixational eye movements. Vision Research 76, 31-42.",
    ),
    "eigenfaces": (
        "Turk & Pentland, 1991",
        "Turk, M. & Pentland, A. (1991). Eigenfaces for recognition. Journal of Cognitive Neuroscience 3, 71-86.",
    ),
    "vaegan": (
        "VanRullen & Reddy, 2019",
        "VanRullen, R. & Reddy, L. (2019). Reconstructing faces from fMRI patterns using deep generative neural "
        "networks. Communications Biology 2, 193.",
    ),
    "ssim": (
        "Wang et al., 2004",
        "Wang, Z., Bovik, A. C., Sheikh, H. R. & Simoncelli, E. P. (2004). Image quality assessment: from error "
        "visibility to structural similarity. IEEE Transactions on Image Processing 13, 600-612.",
    ),
    "ms-ssim": (
        "Wang et al., 2003",
        "Wang, Z., Simoncelli, E. P. & Bovik, A. C. (2003). Multiscale structural similarity for image quality "
        "assessment. Asilomar Conference on Signals, Systems & Computers, 1398-1402.",
    ),
}
"""Key -> (as a text names it, line of the list), in the order of the list."""


def reference_list(keys: Iterable[str]) -> list[str]:
    """Return the lines of these works, each once, in alphabetical order."""
    wanted = set(keys)
    return [line for key, (_, line) in REFERENCES.items() if key in wanted]
