"""Where a run happens: device, precision, seeds and ranks."""
