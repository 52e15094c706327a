"""Training: the loop, the losses and the identity-tailored strategy. Needs the extra `train`."""
