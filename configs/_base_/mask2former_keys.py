# Mask2Former's rules for parameters, as in mmdet's and mmseg's Swin configs: the backbone has a tenth of the learning
# rate; norms and queries have no weight decay. Of all keys in a parameter's name, the longest one counts, so each norm
# of the backbone has a key. Stage 3 of small and base has 27 blocks
norms = ['stem.norm', 'out_norms', *(f'stages.{stage}.downsample.norm' for stage in range(4))]
norms += [f'stages.{stage}.blocks.{block}.norm' for stage in range(4) for block in range(27)]
mask2former_keys = {
    'backbone': dict(lr_mult=0.1),
    **{f'backbone.{norm}': dict(lr_mult=0.1, decay_mult=0.0) for norm in norms},
    'query_embed': dict(decay_mult=0.0),
    'query_feat': dict(decay_mult=0.0),
    'level_embed': dict(decay_mult=0.0),
}
del norms
