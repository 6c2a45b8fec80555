"""What is built on this project without being a part of it."""
