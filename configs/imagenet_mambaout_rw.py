# timm's own sizes, to test their published weights: no recipe of them is published. Size, crop and interpolation of the
# test images are those with which timm tests these weights. For others: --cfg-options model.backbone.arch=base_wide_rw
# test_dataloader.dataset.transform.pretrained_cfg=mambaout_base_wide_rw.sw_e500_in1k
_base_ = './imagenet_mambaout_tiny.py'
model = dict(backbone=dict(arch='base_plus_rw', drop_path_rate=0.0))
test_dataloader = dict(
    dataset=dict(transform=dict(_delete_=True, pretrained_cfg='mambaout_base_plus_rw.sw_e150_r384_in12k_ft_in1k'))
)
