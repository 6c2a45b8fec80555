# LocalVim, with the orders that the search found for the first six blocks. The map is the output of the 4th; the last
# two are not built
_base_ = './mambaout.py'
width = 64
model = dict(
    backbone=dict(
        _delete_=True,
        type='LocalVim',
        arch=dict(
            dim=width,
            depth=6,
            orders=[
                ['rows', 'columns_reversed', 'windows7', 'windows7_reversed'],
                ['rows_reversed', 'windows2_reversed', 'windows7', 'windows7_reversed'],
                ['rows', 'rows_reversed', 'columns', 'windows7'],
                *[['rows', 'rows_reversed', 'columns', 'columns_reversed']] * 3,
            ],
        ),
        out_indices=(2,),
    ),
    decode_head=dict(in_channels=width, channels=width),
)
