# The mini recipe, trained for longer; transfer.py draws the data
_base_ = '../../../configs/mini/imagenet_mambaout_mini.py'
epochs = 30
param_scheduler = dict(end=epochs)
train_cfg = dict(max_epochs=epochs, val_interval=10)
