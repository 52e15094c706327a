"""The identity adapter. Read `attention.py` first: it is the method.

config, sites      what an adapter looks like, and where it sits
projection         W+ codes -> tokens
attention          the identity branch at one site, readable and trainable
adapter            projection and branches together
folding            the same branch with everything constant multiplied out, for sampling
presets            where in the UNet and when it acts
localisation       the maps of where it acts, and people placed by them
diffusers_processor  the branch in a diffusers UNet, for training
formats, published   checkpoints: ours, and W+ Adapter's
"""
