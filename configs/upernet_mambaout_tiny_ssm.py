# The open question: MambaOut with the SSM put back, each block the Mamba block of Figure 1 at the same width and depth
_base_ = './upernet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed'],  # ours: VMamba's; ['rows'] alone is causal
    ),
)
