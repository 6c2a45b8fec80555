# 56 M, 975 G. The open question: MambaOut with the SSM put back. Each block is the Mamba block of Figure 1, at the same
# width and depth; its S6, which no published weights hold, starts at random
_base_ = './upernet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed'],  # ours: VMamba's; ['rows'] is one causal scan
    ),
)
