# MambaOut's ImageNet classifier, for tools/get_flops.py. This project does not train it.
# For another size: --cfg-options model.arch=base
custom_imports = dict(imports=['mmengine_plugin'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='MambaOutClassifier', arch='tiny')
