"""The few hot operators, each with an eager reference; Triton twins beside them."""
