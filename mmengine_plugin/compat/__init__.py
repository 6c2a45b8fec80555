"""What stands in for parts of mmcv and mmengine, and the private names of other libraries that are needed."""
