# PlainMamba: one S6 reads the patches along four snakes. The map is the output of the 4th of 6 blocks; the last two are
# not built
_base_ = './mambaout.py'
width = 48
model = dict(
    backbone=dict(
        _delete_=True,
        type='PlainMamba',
        arch=dict(dim=width, depth=6, stem_convs=1, first_conv=True),
        norm_eval=False,  # there are no pretrained statistics
        out_indices=(2,),
    ),
    decode_head=dict(in_channels=width, channels=width),
)
