"""The W+ encoder: an aligned face -> W+ codes.

Omer Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", SIGGRAPH 2021 (arXiv 2102.02766): IR-SE50 with
a feature pyramid, one head a style, every style predicted as its difference to the first.
"""
