# 56 M, 975 G. Ours: MambaOut with the SSM put back, the paper's open question. Each block is the Mamba block of
# Figure 1, with the same width and depth. No published weights hold its S6, which starts from random values
_base_ = './upernet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        # ours: VMamba's orders; ['rows'] is one causal scan
        ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed'],
    ),
)
