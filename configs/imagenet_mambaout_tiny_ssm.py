# 29 M, 6.2 G. Ours: MambaOut with the SSM put back, to pretrain it for the detectors and segmentors of the same name.
# They then start from fair weights: --cfg-options model.backbone.init_cfg.checkpoint=<the best checkpoint of this run>
_base_ = './imagenet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        # ours: VMamba's orders; ['rows'] is one causal scan
        ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed'],
    ),
)
