"""The identity adapter. Read `attention.py` first: it is the method.

config, sites      what an adapter looks like, and where it sits
projection         W+ codes -> tokens
attention          the identity branch at one site, readable and trainable
adapter            projection and branches together
folding            the same branch with everything constant multiplied out, for sampling
diffusers_processor  the branch in a diffusers UNet, for training
formats            checkpoints
"""
