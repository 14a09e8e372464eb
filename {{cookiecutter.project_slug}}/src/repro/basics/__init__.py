"""What every room needs: errors, files, digests, seeds, locks. It knows nothing of training."""
