"""The identity in ComfyUI's UNet.

apply              Apply's work: codes are folded, patches are put on a clone of the model
sites              the UNet's cross-attentions
applied_identity   one identity on a model
attn2_patch        what runs at a cross-attention in every step
run_state          the state of a run, one object in transformer_options
wrappers           how it gets there: at the sampler's start, and around each evaluation
batch_rows         which pictures of the batch an evaluation is about
compile_guard      torch.compile
record_maps        a sampler that draws nothing and records the localisation maps
"""
