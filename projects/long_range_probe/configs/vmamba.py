# VMamba, of the later of its two families
_base_ = './mambaout.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VMamba', arch=dict(depths=(1, 1, 2), dims=(24, 48, 96), ssm_ratio=1.0), out_indices=(2,)
    )
)
