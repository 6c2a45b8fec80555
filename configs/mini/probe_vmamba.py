# VMamba of the later family
_base_ = './probe_mambaout.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VMamba', arch=dict(depths=(1, 1, 2), dims=(24, 48, 96), ssm_ratio=1.0), out_indices=(2,)
    )
)
