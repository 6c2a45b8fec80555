# The ImageNet classifier that the published weights hold, for tools/get_flops.py; nothing here trains it.
# --cfg-options model.arch=base names another size.
custom_imports = dict(imports=['mmengine_plugin'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='MambaOutClassifier', arch='tiny')
