"""StyleGAN2's generator in pure PyTorch: W+ codes to portraits.

Tero Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv 1912.04958).
"""
