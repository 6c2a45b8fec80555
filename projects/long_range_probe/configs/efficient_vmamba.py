# EfficientVMamba: its third stage, whose map is scored, has no scans
_base_ = './mambaout.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientVMamba',
        arch=dict(depths=(1, 1, 2), dims=(24, 48, 96)),
        norm_eval=False,  # there are no pretrained statistics
        out_indices=(2,),
    )
)
