"""What stands in for parts of mmcv and mmengine, and the one module that knows private names of other libraries."""
