"""What user code in a worker imports."""
