"""The identity adapter. Read `attention.py` first: it is the method.

config, sites   what an adapter looks like, and where in the UNet it acts
adapter         W+ codes -> tokens, and all branches together
attention       the identity branch at one site, readable and trainable
folding         the same branch with everything constant multiplied out, for sampling
presets         how strongly, where in the UNet and when it acts
maps            where in the picture it acts, and several people placed by that
overlay         maps as pictures
"""
